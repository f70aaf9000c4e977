//! Declarations of variables and parameters, with their initial values.

use super::Parser;
use crate::ast::Variable;
use crate::error::Result;
use crate::lexer::Kind;
use crate::types::{Space, Type};

/// No variable may be larger: larger ones would overflow sizes elsewhere.
const MAX_BYTES: u64 = 1 << 32;

impl<'a> Parser<'a> {
    pub(super) fn scalar_type(&mut self) -> Result<Type> {
        match self.peek() {
            Kind::Dot(name) if Type::parse(name).is_some() => {
                self.at += 1;
                Ok(Type::parse(name).expect("just seen"))
            }
            _ => self.expected("a type such as .f32"),
        }
    }

    /// `.align n`, if it stands here.
    fn alignment(&mut self) -> Result<Option<usize>> {
        if !self.accept_dot("align") {
            return Ok(None);
        }
        let line = self.line();
        let align = self.unsigned("alignment", 1 << 16)? as usize;
        if !align.is_power_of_two() {
            return self.error(line, format!("alignment {align} is no power of two"));
        }
        Ok(Some(align))
    }

    /// `.param [.align n] .type [.ptr [.space] [.align n]] name[bytes]`
    pub(super) fn param(&mut self) -> Result<Variable> {
        let line = self.line();
        self.at += 1;
        let mut align = self.alignment()?;
        let ty = self.scalar_type()?;
        if self.accept_dot("ptr") {
            if let Kind::Dot(space) = self.peek()
                && Space::parse(space).is_some()
            {
                self.at += 1;
            }
            self.alignment()?; // of what it points to
        }
        align = align.or(self.alignment()?);
        let name = self.word("the parameter's name")?.to_string();
        let count = self.dimensions(line)?.unwrap_or(1);
        self.made(name, Space::Param, align, ty, 1, count, false, line)
    }

    #[allow(clippy::too_many_arguments)]
    fn made(
        &self,
        name: String,
        space: Space,
        align: Option<usize>,
        ty: Type,
        vector: usize,
        count: u64,
        is_extern: bool,
        line: u32,
    ) -> Result<Variable> {
        let unit = ty.bytes() * vector;
        if unit == 0 {
            return self.error(line, "predicates have no place in memory");
        }
        match count.checked_mul(unit as u64).filter(|&b| b <= MAX_BYTES) {
            None => self.error(line, format!("{name} is larger than {MAX_BYTES} bytes")),
            Some(bytes) => Ok(Variable {
                name,
                space,
                align: align.unwrap_or(unit.next_power_of_two()),
                bytes: bytes as usize,
                init: Vec::new(),
                addresses: Vec::new(),
                is_extern,
                line,
            }),
        }
    }

    /// `[n][m]`: their product; `[]` counts as 0.
    fn dimensions(&mut self, line: u32) -> Result<Option<u64>> {
        let mut count: Option<u64> = None;
        while self.accept('[') {
            let n = if self.peek() == Kind::Mark(']') {
                0
            } else {
                self.unsigned("array size", MAX_BYTES)?
            };
            self.expect(']')?;
            match count.unwrap_or(1).checked_mul(n) {
                Some(product) => count = Some(product),
                None => return self.error(line, "array too large"),
            }
        }
        Ok(count)
    }

    /// `.space [.align n] [.vN] .type name[n] = {..}, name2 ... ;`
    pub(super) fn variable(&mut self, is_extern: bool) -> Result<Vec<Variable>> {
        let line = self.line();
        let space = match self.next() {
            Kind::Dot(name) => Space::parse(name).unwrap_or(Space::Generic),
            _ => Space::Generic,
        };
        let (mut align, mut vector) = (None, 1);
        let ty = loop {
            match self.peek() {
                Kind::Dot("align") => align = self.alignment()?,
                Kind::Dot("v2") => (self.at, vector) = (self.at + 1, 2),
                Kind::Dot("v4") => (self.at, vector) = (self.at + 1, 4),
                Kind::Dot("attribute") => {
                    return self.expected("no .attribute: it is not supported");
                }
                _ => break self.scalar_type()?,
            }
        };
        let mut variables = Vec::new();
        loop {
            let name = self.word("the variable's name")?;
            if self.accept('<') {
                let count = self.unsigned("count", 1 << 16)?;
                self.expect('>')?;
                for i in 0..count {
                    let name = format!("{name}{i}");
                    variables.push(self.made(name, space, align, ty, vector, 1, is_extern, line)?);
                }
            } else {
                let dimensions = self.dimensions(line)?;
                let count = dimensions.unwrap_or(1);
                let mut variable =
                    self.made(name.into(), space, align, ty, vector, count, is_extern, line)?;
                if self.accept('=') {
                    if !matches!(space, Space::Global | Space::Const) {
                        return self
                            .error(line, "only .global and .const variables have initial values");
                    }
                    self.initialiser(&mut variable, ty, 0)?;
                    let has = variable.init.len();
                    if count == 0 {
                        variable.bytes = has;
                    } else if has > variable.bytes {
                        return self
                            .error(line, format!("{has} initial bytes for {}", variable.bytes));
                    }
                }
                if variable.bytes == 0 && !is_extern && space != Space::Shared {
                    return self.error(line, format!("variable {} has no size", variable.name));
                }
                variables.push(variable);
            }
            if !self.accept(',') {
                break;
            }
        }
        self.expect(';')?;
        Ok(variables)
    }

    fn initialiser(&mut self, variable: &mut Variable, ty: Type, depth: usize) -> Result<()> {
        if self.accept('{') {
            if depth > 8 {
                return self.error(self.line(), "braces nest deeper than 8");
            }
            while !self.accept('}') {
                self.initialiser(variable, ty, depth + 1)?;
                if !self.accept(',') {
                    self.expect('}')?;
                    break;
                }
            }
            return Ok(());
        }
        let negative = self.accept('-');
        let value = match self.peek() {
            Kind::Integer(i) if ty == Type::F32 => u64::from((i as f32).to_bits()),
            Kind::Integer(i) if ty == Type::F64 => (i as f64).to_bits(),
            Kind::Integer(i) => i,
            Kind::Float32(bits) if ty.bytes() == 4 => u64::from(bits),
            Kind::Float64(bits) if ty.bytes() == 8 => bits,
            Kind::Float64(bits) if ty.bytes() == 4 => {
                u64::from((f64::from_bits(bits) as f32).to_bits())
            }
            Kind::Word(name) if ty.bytes() == 8 && !negative => {
                self.at += 1;
                let generic = name == "generic" && self.accept('(');
                let name = if generic { self.word("a variable's name")? } else { name };
                if generic {
                    self.expect(')')?;
                }
                let offset = self.offset()?;
                variable.addresses.push((variable.init.len(), name.to_string(), offset));
                variable.init.extend([0; 8]);
                return Ok(());
            }
            _ => return self.expected("an initial value of the variable's type"),
        };
        self.at += 1;
        let value = match (negative, ty) {
            (false, _) => value,
            (true, Type::F32) => value ^ (1 << 31),
            (true, Type::F64) => value ^ (1 << 63),
            (true, _) => value.wrapping_neg(),
        };
        variable.init.extend(&value.to_le_bytes()[..ty.bytes()]);
        Ok(())
    }

    /// `+n`, `-n` or `+-n`, or nothing (0).
    pub(super) fn offset(&mut self) -> Result<i64> {
        let plus = self.accept('+');
        let minus = self.accept('-');
        if !plus && !minus {
            return Ok(0);
        }
        let value = self.unsigned("an offset", 1 << 62)? as i64;
        Ok(if minus { -value } else { value })
    }
}
