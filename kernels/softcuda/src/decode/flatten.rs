//! One list of instructions for a kernel: device functions are put in at their calls, names become
//! addresses.
//!
//! So the executor needs no call stack, and lanes that meet again inside of a function run
//! together. Parameters of functions live in local memory, where the caller's `.param` variable is
//! the callee's. Recursion has no such form and is refused.

use std::collections::HashMap;

use crate::ast::{Formal, Function, Instruction, Module, Operand, Statement, Variable};
use crate::error::{Error, Result};
use crate::limits;
use crate::types::{Space, Type};

/// Calls may nest so deep.
const MAX_DEPTH: usize = 64;
/// A kernel may have so many instructions.
const MAX_ITEMS: usize = 1 << 21;
/// A shared address that stands for the beginning of dynamic shared memory until the static is
/// known.
const DYNAMIC: u64 = 1 << 40;

/// An instruction whose operands are registers of the kernel, numbers and places.
pub struct Flat {
    /// The instruction.
    pub insn: Instruction,
    /// The labels it branches to.
    pub targets: Vec<u32>,
}

/// A line of the list.
pub enum Item {
    /// Target of branches.
    Label(u32),
    /// To be executed.
    Insn(Box<Flat>),
}

/// A kernel as one list.
pub struct Flattened {
    /// The list.
    pub items: Vec<Item>,
    /// Types of all registers.
    pub types: Vec<Type>,
    /// Number of labels.
    pub labels: usize,
    /// Bytes of local memory a thread.
    pub local_bytes: usize,
    /// Bytes of static shared memory.
    pub shared_bytes: usize,
    /// Alignment of dynamic shared memory.
    pub dynamic_align: usize,
    /// Bytes of the parameters.
    pub param_bytes: usize,
    /// Parameters: offset, bytes, alignment.
    pub params: Vec<(usize, usize, usize)>,
}

struct Flattener<'a> {
    file: &'a str,
    tree: &'a Module,
    globals: &'a HashMap<String, (u64, usize)>,
    out: Flattened,
    /// Offsets of shared variables, by the function that declares them (none for the module) and
    /// their name.
    shared: HashMap<(Option<&'a str>, usize), u64>,
    stack: Vec<&'a str>,
}

/// One function, put in at one place.
struct Frame<'a> {
    function: &'a Function,
    /// Its first register among the kernel's.
    first_register: usize,
    /// Addresses of its variables.
    places: Vec<(Space, u64)>,
    labels: HashMap<&'a str, u32>,
    /// Where `ret` goes; `None` in the kernel itself.
    end: Option<u32>,
}

/// Makes the list of a kernel.
pub fn flatten(
    file: &str,
    tree: &Module,
    function: &Function,
    globals: &HashMap<String, (u64, usize)>,
) -> Result<Flattened> {
    let out = Flattened {
        items: Vec::new(),
        types: Vec::new(),
        labels: 0,
        local_bytes: 0,
        shared_bytes: 0,
        dynamic_align: 16,
        param_bytes: 0,
        params: Vec::new(),
    };
    let mut f = Flattener { file, tree, globals, out, shared: HashMap::new(), stack: Vec::new() };
    f.function(function, &[], None)?;
    let mut out = f.out;
    for (bytes, limit, what) in [
        (out.shared_bytes, limits::STATIC_SHARED_BYTES, "static shared memory"),
        (out.param_bytes, limits::PARAM_BYTES, "parameters"),
    ] {
        if bytes > limit {
            let name = &function.name;
            let message =
                format!("kernel {name} has {bytes} bytes of {what}: at most {limit} are possible");
            return Err(Error::Syntax { file: file.into(), line: function.line, message });
        }
    }
    let dynamic = out.shared_bytes.next_multiple_of(out.dynamic_align) as u64;
    for item in &mut out.items {
        if let Item::Insn(flat) = item {
            flat.insn.operands.iter_mut().for_each(|o| settle(o, dynamic));
        }
    }
    Ok(out)
}

/// Puts in where dynamic shared memory begins.
fn settle(operand: &mut Operand, dynamic: u64) {
    match operand {
        Operand::Place(Space::Shared, address) if *address >= DYNAMIC => {
            *address = *address - DYNAMIC + dynamic;
        }
        Operand::Address(base, _) => settle(base, dynamic),
        Operand::Vector(list) | Operand::List(list) => {
            list.iter_mut().for_each(|o| settle(o, dynamic));
        }
        _ => {}
    }
}

impl<'a> Flattener<'a> {
    fn refuse<T>(&self, insn: &Instruction, message: impl Into<String>) -> Result<T> {
        Err(Error::Instruction {
            file: self.file.into(),
            line: insn.line,
            opcode: insn.full_opcode(),
            message: message.into(),
        })
    }

    fn label(&mut self) -> u32 {
        self.out.labels += 1;
        self.out.labels as u32 - 1
    }

    fn shared_variable(&mut self, owner: Option<&'a str>, index: usize, v: &Variable) -> u64 {
        if let Some(&at) = self.shared.get(&(owner, index)) {
            return at;
        }
        let at = if v.bytes == 0 {
            self.out.dynamic_align = self.out.dynamic_align.max(v.align);
            DYNAMIC
        } else {
            let at = self.out.shared_bytes.next_multiple_of(v.align);
            self.out.shared_bytes = at + v.bytes;
            at as u64
        };
        self.shared.insert((owner, index), at);
        at
    }

    fn local(&mut self, v: &Variable) -> (Space, u64) {
        let at = self.out.local_bytes.next_multiple_of(v.align);
        self.out.local_bytes = at + v.bytes;
        (Space::Local, at as u64)
    }

    /// Puts a function in; `actuals` are the places of its formals in memory, returns first.
    fn function(
        &mut self,
        function: &'a Function,
        actuals: &[Option<(Space, u64)>],
        end: Option<u32>,
    ) -> Result<usize> {
        self.stack.push(&function.name);
        let first_register = self.out.types.len();
        self.out.types.extend(function.registers.iter().map(|r| r.ty));
        let mut places = vec![None; function.variables.len()];
        let formals = function.returns.iter().chain(&function.params);
        for (i, formal) in formals.enumerate() {
            let Formal::Memory(index) = formal else { continue };
            let v = &function.variables[*index];
            places[*index] = Some(if function.is_entry {
                let at = self.out.param_bytes.next_multiple_of(v.align);
                self.out.param_bytes = at + v.bytes;
                self.out.params.push((at, v.bytes, v.align));
                (Space::Param, at as u64)
            } else {
                match actuals.get(i).copied().flatten() {
                    Some(place) => place,
                    None => self.local(v),
                }
            });
        }
        let mut all = Vec::new();
        for (i, v) in function.variables.iter().enumerate() {
            all.push(match (places[i], v.space) {
                (Some(place), _) => place,
                (None, Space::Shared) => {
                    (Space::Shared, self.shared_variable(Some(&function.name), i, v))
                }
                (None, Space::Local | Space::Param) => self.local(v),
                (None, _) => {
                    let message = format!("{}: variables of this space belong outside", v.name);
                    return Err(Error::Syntax { file: self.file.into(), line: v.line, message });
                }
            });
        }
        let body = function.body.as_deref().unwrap_or(&[]);
        let mut labels = HashMap::new();
        for statement in body {
            if let Statement::Label(name) = statement {
                labels.insert(name.as_str(), self.label());
            }
        }
        let frame = Frame { function, first_register, places: all, labels, end };
        for statement in body {
            match statement {
                Statement::Label(name) => {
                    self.out.items.push(Item::Label(frame.labels[name.as_str()]));
                }
                Statement::Instruction(insn) => self.instruction(&frame, insn)?,
            }
            if self.out.items.len() > MAX_ITEMS {
                let message = format!("kernel with more than {MAX_ITEMS} instructions");
                let line = function.line;
                return Err(Error::Syntax { file: self.file.into(), line, message });
            }
        }
        if self.out.local_bytes > 1 << 24 {
            let message = format!("{} bytes of local memory", self.out.local_bytes);
            return Err(Error::Syntax { file: self.file.into(), line: function.line, message });
        }
        self.stack.pop();
        Ok(first_register)
    }

    fn instruction(&mut self, frame: &Frame<'a>, insn: &'a Instruction) -> Result<()> {
        if insn.opcode == "call" {
            return self.call(frame, insn);
        }
        let mut flat = Flat { insn: insn.clone(), targets: Vec::new() };
        flat.insn.guard = insn.guard.map(|(r, n)| (r + frame.first_register, n));
        match insn.opcode.as_str() {
            "bra" => match &insn.operands[..] {
                [Operand::Name(name)] => match frame.labels.get(name.as_str()) {
                    Some(&label) => flat.targets.push(label),
                    None => return self.refuse(insn, format!("no label {name}")),
                },
                _ => return self.refuse(insn, "it takes one label"),
            },
            "brx" => {
                let table = match insn.operands.get(1) {
                    Some(Operand::Name(name)) => {
                        frame.function.branch_targets.iter().find(|(n, _)| n == name)
                    }
                    _ => None,
                };
                let Some((_, names)) = table else {
                    return self.refuse(insn, "it takes an index and a table of labels");
                };
                for name in names {
                    match frame.labels.get(name.as_str()) {
                        Some(&label) => flat.targets.push(label),
                        None => return self.refuse(insn, format!("no label {name}")),
                    }
                }
                flat.insn.operands[0] = self.operand(frame, insn, &insn.operands[0])?;
            }
            "ret" if frame.end.is_some() => {
                flat.insn.opcode = "bra".into();
                flat.insn.modifiers.clear();
                flat.insn.operands = vec![Operand::Name("return".into())];
                flat.targets.extend(frame.end);
            }
            opcode => {
                for operand in &mut flat.insn.operands {
                    *operand = self.operand(frame, insn, operand)?;
                }
                let local = |o: &Operand| match o {
                    Operand::Address(base, _) => match **base {
                        Operand::Place(space, _) => space == Space::Local,
                        _ => frame.end.is_some(),
                    },
                    _ => false,
                };
                if matches!(opcode, "ld" | "st") && flat.insn.operands.iter().any(local) {
                    for m in flat.insn.modifiers.iter_mut().filter(|m| m.starts_with("param")) {
                        *m = "local".into();
                    }
                }
            }
        }
        self.out.items.push(Item::Insn(Box::new(flat)));
        Ok(())
    }

    fn operand(
        &mut self,
        frame: &Frame<'a>,
        insn: &Instruction,
        operand: &Operand,
    ) -> Result<Operand> {
        let register = |r: &usize| r + frame.first_register;
        let mut each = |list: &[Operand]| -> Result<Vec<Operand>> {
            list.iter().map(|o| self.operand(frame, insn, o)).collect()
        };
        Ok(match operand {
            Operand::Register(r) => Operand::Register(register(r)),
            Operand::Not(r) => Operand::Not(register(r)),
            Operand::Variable(v) => {
                let (space, address) = frame.places[*v];
                Operand::Place(space, address)
            }
            Operand::Vector(list) => Operand::Vector(each(list)?),
            Operand::List(list) => Operand::List(each(list)?),
            Operand::Pair(a, b) => {
                let mut both = each(&[(**a).clone(), (**b).clone()])?;
                let second = both.pop().expect("two");
                Operand::Pair(Box::new(both.pop().expect("two")), Box::new(second))
            }
            Operand::Address(base, offset) => {
                let base = self.operand(frame, insn, base)?;
                // `name+4` as the source of a mov is a place of its own.
                match base {
                    Operand::Place(space, at) if insn.opcode == "mov" => {
                        Operand::Place(space, at.wrapping_add(*offset as u64))
                    }
                    base => Operand::Address(Box::new(base), *offset),
                }
            }
            Operand::Name(name) => {
                let tree = self.tree;
                if let Some(&(address, _)) = self.globals.get(name) {
                    return Ok(Operand::Place(Space::Global, address));
                }
                match tree.variables.iter().enumerate().find(|(_, v)| v.name == *name) {
                    Some((i, v)) if v.space == Space::Shared => {
                        Operand::Place(Space::Shared, self.shared_variable(None, i, v))
                    }
                    _ if tree.functions.iter().any(|f| f.name == *name) => {
                        return self.refuse(insn, "addresses of functions are not supported");
                    }
                    _ => return self.refuse(insn, format!("unknown name {name}")),
                }
            }
            other => other.clone(),
        })
    }

    /// `call (returns), function, (arguments)`
    fn call(&mut self, frame: &Frame<'a>, insn: &'a Instruction) -> Result<()> {
        let none = Vec::new();
        let (returns, rest) = match insn.operands.split_first() {
            Some((Operand::List(list), rest)) => (list, rest),
            _ => (&none, &insn.operands[..]),
        };
        let (name, arguments) = match rest {
            [Operand::Name(name)] => (name, &none),
            [Operand::Name(name), Operand::List(list)] => (name, list),
            _ => return self.refuse(insn, "only calls of a named function are supported"),
        };
        let tree = self.tree;
        let Some(callee) = tree.functions.iter().find(|f| f.name == *name && !f.is_entry) else {
            return self.refuse(insn, format!("unknown function {name}"));
        };
        if callee.body.is_none() {
            return self.refuse(insn, format!("function {name} has no body in this module"));
        }
        if self.stack.contains(&name.as_str()) || self.stack.len() >= MAX_DEPTH {
            return self.refuse(insn, format!("function {name} calls itself: not supported"));
        }
        if returns.len() != callee.returns.len() || arguments.len() != callee.params.len() {
            return self.refuse(insn, format!("{name} has other parameters"));
        }
        if insn.modifiers.iter().any(|m| m != "uni") {
            return self.refuse(insn, "only .uni is possible");
        }
        let end = self.label();
        if let Some((register, negated)) = insn.guard {
            let mut skip = insn.clone();
            skip.opcode = "bra".into();
            skip.modifiers.clear();
            skip.operands = vec![Operand::Name("skip".into())];
            skip.guard = Some((register + frame.first_register, !negated));
            self.out.items.push(Item::Insn(Box::new(Flat { insn: skip, targets: vec![end] })));
        }
        let formals: Vec<&Formal> = callee.returns.iter().chain(&callee.params).collect();
        let actuals: Vec<&Operand> = returns.iter().chain(arguments).collect();
        let mut places = Vec::new();
        for (formal, actual) in formals.iter().zip(&actuals) {
            places.push(match (formal, actual) {
                (Formal::Memory(index), Operand::Variable(v)) => {
                    let (has, needs) = (&frame.function.variables[*v], &callee.variables[*index]);
                    if has.bytes < needs.bytes || has.align < needs.align.min(has.bytes) {
                        return self
                            .refuse(insn, format!("{} does not fit {}", has.name, needs.name));
                    }
                    Some(frame.places[*v])
                }
                (Formal::Memory(_), _) => {
                    return self.refuse(insn, "arguments of this function are .param variables");
                }
                (Formal::Register(_), _) => None,
            });
        }
        // Registers of the callee come next; arguments in registers are moved before, results
        // after.
        let first = self.out.types.len();
        let count = callee.returns.len();
        let moved = |s: &mut Self, to: Operand, from: Operand, r: usize| {
            let ty = callee.registers[r].ty;
            let suffix = match ty {
                Type::Pred => "pred".to_string(),
                _ => format!("b{}", 8 * ty.bytes()),
            };
            let insn = Instruction {
                line: insn.line,
                guard: None,
                opcode: "mov".into(),
                modifiers: vec![suffix],
                operands: vec![to, from],
            };
            s.out.items.push(Item::Insn(Box::new(Flat { insn, targets: Vec::new() })));
        };
        for (formal, actual) in formals.iter().zip(&actuals).skip(count) {
            if let Formal::Register(r) = formal {
                let from = self.operand(frame, insn, actual)?;
                moved(self, Operand::Register(first + r), from, *r);
            }
        }
        let inner_end = self.label();
        self.function(callee, &places, Some(inner_end))?;
        self.out.items.push(Item::Label(inner_end));
        for (formal, actual) in formals.iter().zip(&actuals).take(count) {
            if let Formal::Register(r) = formal {
                let to = self.operand(frame, insn, actual)?;
                moved(self, to, Operand::Register(first + r), *r);
            }
        }
        self.out.items.push(Item::Label(end));
        Ok(())
    }
}
