//! Bodies of functions: declarations, labels, instructions and their operands.

use std::collections::HashMap;

use super::Parser;
use crate::ast::{Function, Instruction, Operand, Register, Special, Statement};
use crate::error::Result;
use crate::lexer::Kind;
use crate::types::Space;

/// What a name means in a scope.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name {
    /// Index into the function's registers.
    Register(usize),
    /// Index into the function's variables.
    Variable(usize),
}

/// Scopes may nest so deep.
const MAX_DEPTH: usize = 64;
/// More registers than any compiler emits, few enough that nothing overflows.
const MAX_REGISTERS: usize = 1 << 20;

/// The names of a function: the innermost scope last.
struct Scopes(Vec<HashMap<String, Name>>);

impl Scopes {
    fn find(&self, name: &str) -> Option<Name> {
        self.0.iter().rev().find_map(|scope| scope.get(name)).copied()
    }

    fn declare(&mut self, name: String, what: Name) -> bool {
        self.0.last_mut().is_some_and(|scope| scope.insert(name, what).is_none())
    }
}

impl<'a> Parser<'a> {
    /// From behind the opening brace to behind the closing one.
    pub(super) fn body(&mut self, f: &mut Function, names: HashMap<String, Name>) -> Result<()> {
        let mut scopes = Scopes(vec![names, HashMap::new()]);
        let mut body = Vec::new();
        let mut labels = HashMap::new();
        loop {
            let line = self.line();
            match self.peek() {
                Kind::Mark('{') => {
                    self.at += 1;
                    scopes.0.push(HashMap::new());
                    if scopes.0.len() > MAX_DEPTH {
                        return self.error(line, "scopes nest too deep");
                    }
                }
                Kind::Mark('}') => {
                    self.at += 1;
                    scopes.0.pop();
                    if scopes.0.len() == 1 {
                        break;
                    }
                }
                Kind::Dot("reg") => self.registers(f, &mut scopes)?,
                Kind::Dot(name) if Space::parse(name).is_some() => {
                    for variable in self.variable(false)? {
                        let index = f.variables.len();
                        if !scopes.declare(variable.name.clone(), Name::Variable(index)) {
                            let message = format!("{} is declared twice", variable.name);
                            return self.error(line, message);
                        }
                        f.variables.push(variable);
                    }
                }
                Kind::Dot("loc") => self.source_line(),
                Kind::Dot("pragma") => {
                    while !self.accept(';') {
                        if self.next() == Kind::End {
                            return self.expected("';'");
                        }
                    }
                }
                Kind::Word(label) if self.peek_ahead(1) == Kind::Mark(':') => {
                    self.at += 2;
                    if self.accept_dot("branchtargets") {
                        let mut targets = Vec::new();
                        loop {
                            targets.push(self.word("a label")?.to_string());
                            if !self.accept(',') {
                                break;
                            }
                        }
                        self.expect(';')?;
                        f.branch_targets.push((label.to_string(), targets));
                        continue;
                    }
                    if let Some(first) = labels.insert(label, line) {
                        let message = format!("label {label} stands on line {first} already");
                        return self.error(line, message);
                    }
                    body.push(Statement::Label(label.to_string()));
                }
                Kind::Word(_) | Kind::Mark('@') => {
                    let instruction = self.instruction(&scopes)?;
                    body.push(Statement::Instruction(instruction));
                }
                Kind::Mark(';') => self.at += 1,
                _ => return self.expected("an instruction, a declaration or '}'"),
            }
        }
        f.body = Some(body);
        Ok(())
    }

    /// `.reg .f32 %f<17>, %x;`
    fn registers(&mut self, f: &mut Function, scopes: &mut Scopes) -> Result<()> {
        let line = self.line();
        self.at += 1;
        let ty = self.scalar_type()?;
        loop {
            let name = self.word("a register's name")?;
            let names = if self.accept('<') {
                let count = self.unsigned("number of registers", MAX_REGISTERS as u64)?;
                self.expect('>')?;
                (0..count).map(|i| format!("{name}{i}")).collect()
            } else {
                vec![name.to_string()]
            };
            if f.registers.len() + names.len() > MAX_REGISTERS {
                return self.error(line, format!("more than {MAX_REGISTERS} registers"));
            }
            for name in names {
                if !scopes.declare(name.clone(), Name::Register(f.registers.len())) {
                    return self.error(line, format!("{name} is declared twice"));
                }
                f.registers.push(Register { ty });
            }
            if !self.accept(',') {
                break;
            }
        }
        self.expect(';')
    }

    /// `@p opcode.modifiers operands;`
    fn instruction(&mut self, scopes: &Scopes) -> Result<Instruction> {
        let line = self.line();
        let mut guard = None;
        if self.accept('@') {
            let negated = self.accept('!');
            let name = self.word("a predicate")?;
            match scopes.find(name) {
                Some(Name::Register(register)) => guard = Some((register, negated)),
                _ => return self.error(line, format!("unknown predicate {name}")),
            }
        }
        let line = self.line();
        let opcode = self.word("an instruction")?.to_string();
        let mut modifiers = Vec::new();
        while let Kind::Dot(modifier) = self.peek() {
            self.at += 1;
            modifiers.push(modifier.to_string());
        }
        let mut operands = Vec::new();
        if !self.accept(';') {
            loop {
                operands.push(self.operand(scopes, 0)?);
                if self.accept(';') {
                    break;
                }
                self.expect(',')?;
            }
        }
        Ok(Instruction { line, guard, opcode, modifiers, operands })
    }

    fn operand(&mut self, scopes: &Scopes, depth: usize) -> Result<Operand> {
        let line = self.line();
        if depth > 3 {
            return self.error(line, "operands nest too deep");
        }
        match self.peek() {
            Kind::Mark('{') => {
                self.at += 1;
                Ok(Operand::Vector(self.operands_until('}', scopes, depth)?))
            }
            Kind::Mark('(') => {
                self.at += 1;
                Ok(Operand::List(self.operands_until(')', scopes, depth)?))
            }
            Kind::Mark('[') => {
                self.at += 1;
                let base = self.simple(scopes)?;
                let offset = self.offset()?;
                self.expect(']')?;
                Ok(Operand::Address(Box::new(base), offset))
            }
            Kind::Mark('!') => {
                self.at += 1;
                match self.simple(scopes)? {
                    Operand::Register(register) => Ok(Operand::Not(register)),
                    _ => self.error(line, "'!' belongs before a predicate register"),
                }
            }
            _ => {
                let first = self.simple(scopes)?;
                if self.accept('|') {
                    let second = self.simple(scopes)?;
                    return Ok(Operand::Pair(Box::new(first), Box::new(second)));
                }
                // `name+4` as the source of a mov.
                if matches!(first, Operand::Variable(_) | Operand::Name(_))
                    && matches!(self.peek(), Kind::Mark('+' | '-'))
                {
                    let offset = self.offset()?;
                    return Ok(Operand::Address(Box::new(first), offset));
                }
                Ok(first)
            }
        }
    }

    fn operands_until(&mut self, end: char, scopes: &Scopes, depth: usize) -> Result<Vec<Operand>> {
        let mut operands = Vec::new();
        while !self.accept(end) {
            if !operands.is_empty() {
                self.expect(',')?;
            }
            operands.push(self.operand(scopes, depth + 1)?);
        }
        Ok(operands)
    }

    /// A name or a number.
    fn simple(&mut self, scopes: &Scopes) -> Result<Operand> {
        let line = self.line();
        match self.next() {
            Kind::Mark('-') => match self.next() {
                Kind::Integer(value) => Ok(Operand::Integer(value.wrapping_neg())),
                Kind::Float32(bits) => Ok(Operand::Float32(bits ^ (1 << 31))),
                Kind::Float64(bits) => Ok(Operand::Float64(bits ^ (1 << 63))),
                _ => self.error(line, "expected a number after '-'"),
            },
            Kind::Integer(value) => Ok(Operand::Integer(value)),
            Kind::Float32(bits) => Ok(Operand::Float32(bits)),
            Kind::Float64(bits) => Ok(Operand::Float64(bits)),
            Kind::Word("_") => Ok(Operand::Sink),
            Kind::Word("WARP_SZ") => Ok(Operand::Integer(32)),
            Kind::Word(name) => match scopes.find(name) {
                Some(Name::Register(register)) => Ok(Operand::Register(register)),
                Some(Name::Variable(variable)) => Ok(Operand::Variable(variable)),
                None if name.starts_with('%') => self.special(name, line),
                None => Ok(Operand::Name(name.to_string())),
            },
            other => self.error(line, format!("expected an operand, found {}", super::show(other))),
        }
    }

    fn special(&mut self, name: &str, line: u32) -> Result<Operand> {
        let axis = if Special::has_axis(name) {
            match self.next() {
                Kind::Dot("x") => Some(0),
                Kind::Dot("y") => Some(1),
                Kind::Dot("z") => Some(2),
                _ => return self.error(line, format!("{name} needs .x, .y or .z")),
            }
        } else {
            None
        };
        match Special::parse(name, axis) {
            Some(special) => Ok(Operand::Special(special)),
            None => self.error(line, format!("unknown register {name}")),
        }
    }
}
