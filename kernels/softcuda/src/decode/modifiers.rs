//! The modifiers of an instruction, taken one by one: what is left over at the end is an error, so
//! that no modifier is ever passed over in silence.

use crate::ast::Instruction;
use crate::types::{Space, Type};

/// Modifiers not yet understood.
pub struct Modifiers<'a> {
    left: Vec<&'a str>,
}

impl<'a> Modifiers<'a> {
    /// All modifiers of an instruction.
    pub fn new(insn: &'a Instruction) -> Modifiers<'a> {
        Modifiers { left: insn.modifiers.iter().map(String::as_str).collect() }
    }

    /// Takes this modifier, if it is there.
    pub fn take(&mut self, name: &str) -> bool {
        match self.left.iter().position(|&m| m == name) {
            Some(i) => {
                self.left.remove(i);
                true
            }
            None => false,
        }
    }

    /// Takes this modifier, which has to be there.
    pub fn need(&mut self, name: &str) -> Result<(), String> {
        if self.take(name) { Ok(()) } else { Err(format!("it needs .{name}")) }
    }

    /// Takes the first of these that is there.
    pub fn one_of(&mut self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|name| self.take(name))
    }

    /// Takes the first type.
    pub fn ty(&mut self) -> Result<Type, String> {
        match self.left.iter().position(|m| Type::parse(m).is_some()) {
            Some(i) => Ok(Type::parse(self.left.remove(i)).expect("just seen")),
            None => Err("it needs a type".into()),
        }
    }

    /// Takes the state space, if there is one.
    pub fn space(&mut self) -> Option<Space> {
        let i = self.left.iter().position(|m| Space::parse(m).is_some())?;
        Space::parse(self.left.remove(i))
    }

    /// Takes all of these; they say nothing that is executed here (caching, scopes).
    pub fn ignore(&mut self, names: &[&str], prefixes: &[&str]) {
        self.left.retain(|m| !names.contains(m) && !prefixes.iter().any(|p| m.starts_with(p)));
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<(), String> {
        match self.left.first() {
            None => Ok(()),
            Some(m) => Err(format!("modifier .{m} is not supported here")),
        }
    }
}
