//! Tokens to the module's tree: directives, variables, functions.
//!
//! Recursion happens only where braces nest, and that is limited, so that no text can overflow the
//! stack.

mod body;
mod variable;

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{Formal, Function, Module};
use crate::error::{Error, Result};
use crate::lexer::{self, Kind, Token};
use crate::limits;
use crate::source::SourceLines;
use crate::types::Space;

/// Parses a file; `file` is its name in errors.
pub fn parse(file: &str, text: &str) -> Result<Module> {
    let tokens = lexer::tokens(text).map_err(|(line, message)| Error::Syntax {
        file: file.into(),
        line,
        message,
    })?;
    Parser { file, tokens: &tokens, at: 0, sources: SourceLines::default() }.module()
}

struct Parser<'a> {
    file: &'a str,
    tokens: &'a [Token<'a>],
    at: usize,
    sources: SourceLines,
}

fn show(kind: Kind<'_>) -> String {
    match kind {
        Kind::Word(w) => format!("'{w}'"),
        Kind::Dot(d) => format!("'.{d}'"),
        Kind::Integer(i) => format!("'{i}'"),
        Kind::Float32(_) | Kind::Float64(_) => "a floating-point number".into(),
        Kind::Text(_) => "a string".into(),
        Kind::Mark(c) => format!("'{c}'"),
        Kind::End => "the end of the file".into(),
    }
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Kind<'a> {
        self.tokens[self.at.min(self.tokens.len() - 1)].kind
    }

    fn peek_ahead(&self, ahead: usize) -> Kind<'a> {
        self.tokens[(self.at + ahead).min(self.tokens.len() - 1)].kind
    }

    fn line(&self) -> u32 {
        self.tokens[self.at.min(self.tokens.len() - 1)].line
    }

    fn next(&mut self) -> Kind<'a> {
        let kind = self.peek();
        self.at += 1;
        kind
    }

    fn error<T>(&self, line: u32, message: impl Into<String>) -> Result<T> {
        Err(Error::Syntax { file: self.file.into(), line, message: message.into() })
    }

    /// Complains about the token that `next` would give.
    fn expected<T>(&self, what: &str) -> Result<T> {
        self.error(self.line(), format!("expected {what}, found {}", show(self.peek())))
    }

    fn accept(&mut self, mark: char) -> bool {
        let found = self.peek() == Kind::Mark(mark);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: char) -> Result<()> {
        if self.accept(mark) { Ok(()) } else { self.expected(&format!("'{mark}'")) }
    }

    fn accept_dot(&mut self, name: &str) -> bool {
        let found = self.peek() == Kind::Dot(name);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, what: &str) -> Result<&'a str> {
        match self.peek() {
            Kind::Word(word) => {
                self.at += 1;
                Ok(word)
            }
            _ => self.expected(what),
        }
    }

    fn unsigned(&mut self, what: &str, limit: u64) -> Result<u64> {
        match self.peek() {
            Kind::Integer(value) if value <= limit => {
                self.at += 1;
                Ok(value)
            }
            Kind::Integer(value) => {
                self.error(self.line(), format!("{what} {value} is more than {limit}"))
            }
            _ => self.expected(what),
        }
    }

    fn module(&mut self) -> Result<Module> {
        self.header()?;
        let mut module = Module::default();
        loop {
            // Linkage does not matter: one module is the whole program.
            let mut is_extern = false;
            while let Kind::Dot(linkage @ ("visible" | "extern" | "weak" | "common")) = self.peek()
            {
                is_extern |= linkage == "extern";
                self.at += 1;
            }
            match self.peek() {
                Kind::End => {
                    module.sources = Arc::new(std::mem::take(&mut self.sources));
                    return Ok(module);
                }
                Kind::Dot("entry" | "func") => {
                    let function = self.function()?;
                    // A definition replaces the declaration that came before it.
                    match module.functions.iter().position(|f| f.name == function.name) {
                        None => module.functions.push(function),
                        Some(_) if function.body.is_none() => {}
                        Some(i) if module.functions[i].body.is_none() => {
                            module.functions[i] = function
                        }
                        Some(_) => {
                            let message = format!("function {} is defined twice", function.name);
                            return self.error(function.line, message);
                        }
                    }
                }
                Kind::Dot(name) if Space::parse(name).is_some() => {
                    let variables = self.variable(is_extern)?;
                    if let Some(v) = variables.iter().find(|v| {
                        v.space == Space::Param
                            || module.variables.iter().any(|w| w.name == v.name && !w.is_extern)
                    }) {
                        let message = format!("variable {} is defined twice, or here", v.name);
                        return self.error(v.line, message);
                    }
                    module.variables.retain(|w| variables.iter().all(|v| v.name != w.name));
                    module.variables.extend(variables);
                }
                Kind::Dot("file" | "loc") => self.source_line(),
                Kind::Dot("pragma") => self.skip_line(),
                Kind::Dot("section") => self.skip_section()?,
                _ => return self.expected("a function, a variable or the end of the file"),
            }
        }
    }

    /// `.version`, `.target`, `.address_size`
    fn header(&mut self) -> Result<()> {
        if !self.accept_dot("version") {
            return self.expected("'.version' as the first directive");
        }
        let line = self.line();
        match self.next() {
            Kind::Float64(bits) => {
                let version = f64::from_bits(bits);
                if !(1.0..=limits::PTX_VERSION).contains(&version) {
                    let file = self.file.into();
                    return Err(Error::PtxVersion { file, line, found: format!("{version:?}") });
                }
            }
            other => return self.error(line, format!("no PTX version: {}", show(other))),
        }
        if !self.accept_dot("target") {
            return self.expected("'.target'");
        }
        loop {
            let line = self.line();
            let target = self.word("a target such as sm_80")?;
            // `sm_90a` is for sm_90 and no other; there is none such up to sm_80.
            let number = target.strip_prefix("sm_").map(|n| n.trim_end_matches(['a', 'f']));
            match number.map(str::parse::<u32>) {
                Some(Ok(n)) if n > limits::TARGET => {
                    let device = limits::TARGET;
                    let message = format!("target {target}: the device is an sm_{device}");
                    return self.error(line, message);
                }
                Some(Ok(_)) if target.ends_with(|c: char| c.is_ascii_digit()) => {}
                _ if matches!(target, "debug" | "texmode_unified" | "texmode_independent") => {}
                _ => return self.error(line, format!("unknown target {target}")),
            }
            if !self.accept(',') {
                break;
            }
        }
        if self.accept_dot("address_size") {
            let line = self.line();
            if self.unsigned("address size", 64)? != 64 {
                return self.error(line, "only .address_size 64 is supported");
            }
        } else {
            return self.expected("'.address_size 64'");
        }
        Ok(())
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self.peek() != Kind::End && self.line() == line {
            self.at += 1;
        }
    }

    /// `.file 1 "name"` or `.loc 1 line column ..`; one that is neither says nothing.
    fn source_line(&mut self) {
        let line = self.line();
        match [0, 1, 2].map(|ahead| self.peek_ahead(ahead)) {
            [Kind::Dot("file"), Kind::Integer(index), Kind::Text(name)] => {
                self.sources.file(index, name);
            }
            [Kind::Dot("loc"), Kind::Integer(file), Kind::Integer(of_source)] => {
                self.sources.start(line, file, u32::try_from(of_source).unwrap_or_default());
            }
            _ => {}
        }
        self.skip_line();
    }

    /// `.section .debug_info { ... }`: debug information says nothing that is executed.
    fn skip_section(&mut self) -> Result<()> {
        while self.peek() != Kind::Mark('{') {
            if self.peek() == Kind::End {
                return self.expected("'{' of the section");
            }
            self.at += 1;
        }
        while !self.accept('}') {
            if self.peek() == Kind::End {
                return self.expected("'}' of the section");
            }
            self.at += 1;
        }
        Ok(())
    }

    /// `.entry name (params) directives { body }` or `.func (returns) name (params) ...`
    fn function(&mut self) -> Result<Function> {
        let line = self.line();
        let is_entry = self.next() == Kind::Dot("entry");
        self.sources.end(line);
        let mut f = Function {
            name: String::new(),
            is_entry,
            line,
            returns: Vec::new(),
            params: Vec::new(),
            registers: Vec::new(),
            variables: Vec::new(),
            body: None,
            max_threads: None,
            exact_threads: false,
            branch_targets: Vec::new(),
        };
        let mut names = HashMap::new();
        if !is_entry && self.peek() == Kind::Mark('(') {
            f.returns = self.formals(&mut f, &mut names)?;
        }
        f.name = self.word("the function's name")?.to_string();
        if self.peek() == Kind::Mark('(') {
            f.params = self.formals(&mut f, &mut names)?;
        }
        loop {
            match self.peek() {
                Kind::Dot(which @ ("maxntid" | "reqntid")) => {
                    self.at += 1;
                    let mut threads = [1; 3];
                    for (axis, n) in threads.iter_mut().enumerate() {
                        if axis > 0 && !self.accept(',') {
                            break;
                        }
                        *n = self.unsigned("number of threads", 1024)? as u32;
                    }
                    f.max_threads = Some(threads);
                    f.exact_threads = which == "reqntid";
                }
                Kind::Dot("minnctapersm" | "maxnctapersm" | "maxnreg") => {
                    self.at += 1;
                    self.unsigned("a number", u64::MAX)?;
                }
                Kind::Dot("noreturn") => self.at += 1,
                Kind::Dot("pragma") => self.skip_line(),
                Kind::Mark(';') => {
                    self.at += 1;
                    return Ok(f);
                }
                Kind::Mark('{') => {
                    self.at += 1;
                    self.body(&mut f, names)?;
                    return Ok(f);
                }
                _ => return self.expected("'{' or ';' after the function's head"),
            }
        }
    }

    /// `( .param .u64 name, .reg .b32 %r, ... )`
    fn formals(
        &mut self,
        f: &mut Function,
        names: &mut HashMap<String, body::Name>,
    ) -> Result<Vec<Formal>> {
        self.expect('(')?;
        let mut formals = Vec::new();
        while !self.accept(')') {
            if !formals.is_empty() {
                self.expect(',')?;
            }
            match self.peek() {
                Kind::Dot("param") => {
                    let variable = self.param()?;
                    let index = f.variables.len();
                    names.insert(variable.name.clone(), body::Name::Variable(index));
                    f.variables.push(variable);
                    formals.push(Formal::Memory(index));
                }
                Kind::Dot("reg") if !f.is_entry => {
                    self.at += 1;
                    let ty = self.scalar_type()?;
                    let name = self.word("a register's name")?;
                    let index = f.registers.len();
                    names.insert(name.to_string(), body::Name::Register(index));
                    f.registers.push(crate::ast::Register { ty });
                    formals.push(Formal::Register(index));
                }
                _ => return self.expected("a parameter"),
            }
        }
        Ok(formals)
    }
}
