//! The device as its users see it: memory, modules, launches.

use std::collections::HashMap;
use std::sync::Arc;

use crate::code::Code;
use crate::error::{Access, Error, Leak, Result};
use crate::exec::{self, Grid};
use crate::memory::Memory;
use crate::profile::Profile;
use crate::types::Space;
use crate::{decode, limits, parser};

/// What is checked beyond what the interpreter needs for its own safety (bounds of the arena and
/// alignment).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Each access lies in a live allocation.
    pub bounds: bool,
    /// What is read was written before.
    pub uninitialised: bool,
    /// No two threads touch the same shared memory without a barrier between them, one of them
    /// writing.
    pub races: bool,
    /// All threads of a block come to each barrier.
    pub barriers: bool,
    /// Allocations are freed: [`Device::leaks`] finds those that were not.
    pub leaks: bool,
}

impl Checks {
    /// All of them.
    pub fn all() -> Checks {
        Checks { bounds: true, uninitialised: true, races: true, barriers: true, leaks: true }
    }

    /// None of them.
    pub fn none() -> Checks {
        Checks { bounds: false, uninitialised: false, races: false, barriers: false, leaks: false }
    }
}

/// How a device behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is checked.
    pub checks: Checks,
    /// Whether launches return a [`Profile`] with numbers in it.
    pub count: bool,
    /// Blocks that run at the same time; one for each thread of rayon's pool if not given.
    pub threads: Option<usize>,
    /// Memory of the device.
    pub memory_bytes: usize,
}

impl Default for Options {
    /// All checks, no counters, 4 GiB.
    fn default() -> Options {
        Options { checks: Checks::all(), count: false, threads: None, memory_bytes: 4 << 30 }
    }
}

/// A launch's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
}

/// A parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its size.
    pub bytes: usize,
    /// Its alignment.
    pub align: usize,
}

/// A software CUDA device: one address space of its own, whose pointers are never host pointers.
#[derive(Clone)]
pub struct Device {
    inner: Arc<Inner>,
}

struct Inner {
    options: Options,
    memory: Memory,
}

/// A loaded PTX file. Its global variables live as long as the module and its functions.
#[derive(Clone)]
pub struct Module {
    inner: Arc<ModuleInner>,
}

struct ModuleInner {
    name: String,
    functions: Vec<Arc<Code>>,
    globals: HashMap<String, (u64, usize)>,
    device: Arc<Inner>,
}

impl Drop for ModuleInner {
    fn drop(&mut self) {
        for &(pointer, _) in self.globals.values() {
            // They were allocated when the module was loaded, so this cannot fail unless the user
            // freed them; then there is nothing left to do.
            let _ = self.device.memory.free(pointer);
        }
    }
}

/// A kernel of a loaded module.
#[derive(Clone)]
pub struct Function {
    code: Arc<Code>,
    params: Arc<[Param]>,
    module: Arc<ModuleInner>,
}

impl Device {
    /// A device with no memory in use.
    pub fn new(options: Options) -> Result<Device> {
        let shadow = options.checks.bounds || options.checks.uninitialised;
        let memory = Memory::new(options.memory_bytes, shadow)?;
        Ok(Device { inner: Arc::new(Inner { options, memory }) })
    }

    /// How it was made.
    pub fn options(&self) -> Options {
        self.inner.options
    }

    /// Bytes that are not allocated, and all bytes.
    pub fn memory_info(&self) -> (usize, usize) {
        (self.inner.memory.free_bytes(), self.inner.memory.bytes())
    }

    /// Memory, aligned to 256 bytes and uninitialised. 0 bytes are an error.
    pub fn alloc(&self, bytes: usize) -> Result<u64> {
        self.inner.memory.alloc(bytes)
    }

    /// Gives memory back. What touches it later is told so.
    pub fn free(&self, pointer: u64) -> Result<()> {
        self.inner.memory.free(pointer)
    }

    /// Host to device.
    pub fn write(&self, pointer: u64, bytes: &[u8]) -> Result<()> {
        self.inner.memory.write(pointer, bytes)
    }

    /// Device to host.
    pub fn read(&self, pointer: u64, bytes: &mut [u8]) -> Result<()> {
        self.inner.memory.read(pointer, bytes)
    }

    /// Device to device; the ranges may overlap.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.inner.memory.copy(to, from, bytes)
    }

    /// Repeats a pattern of 1, 2 or 4 bytes.
    pub fn fill(&self, pointer: u64, pattern: &[u8], count: usize) -> Result<()> {
        self.inner.memory.fill(pointer, pattern, count)
    }

    /// Start and bytes of the live allocation around an address.
    pub fn allocation(&self, pointer: u64) -> Option<(u64, usize)> {
        self.inner.memory.allocation(pointer)
    }

    /// Allocations that are live, oldest first: at the end of a program, its leaks. Empty unless
    /// they are checked.
    pub fn leaks(&self) -> Vec<Leak> {
        if self.inner.options.checks.leaks { self.inner.memory.leaks() } else { Vec::new() }
    }

    /// Loads PTX: all its functions are decoded, and its variables allocated. `name` stands for it
    /// in errors.
    pub fn load(&self, name: &str, ptx: &str) -> Result<Module> {
        let tree = parser::parse(name, ptx)?;
        let mut globals = HashMap::new();
        let place = |globals: &mut HashMap<String, (u64, usize)>| -> Result<Vec<Arc<Code>>> {
            for v in &tree.variables {
                if !matches!(v.space, Space::Global | Space::Const) {
                    continue;
                }
                if v.is_extern {
                    let message = format!("variable {} is defined nowhere", v.name);
                    return Err(Error::Syntax { file: name.into(), line: v.line, message });
                }
                let pointer = self.alloc(v.bytes)?;
                globals.insert(v.name.clone(), (pointer, v.bytes));
                let mut bytes = v.init.clone();
                bytes.resize(v.bytes, 0);
                self.write(pointer, &bytes)?;
            }
            for v in &tree.variables {
                for (at, target, offset) in &v.addresses {
                    let Some(&(address, _)) = globals.get(target) else {
                        let message =
                            format!("{} holds the address of an unknown {target}", v.name);
                        return Err(Error::Syntax { file: name.into(), line: v.line, message });
                    };
                    let value = address.wrapping_add(*offset as u64);
                    self.write(globals[&v.name].0 + *at as u64, &value.to_le_bytes())?;
                }
            }
            decode::module(name, &tree, globals)
        };
        let functions = place(&mut globals).inspect_err(|_| {
            for &(pointer, _) in globals.values() {
                let _ = self.free(pointer);
            }
        });
        let functions = functions?;
        let device = self.inner.clone();
        Ok(Module {
            inner: Arc::new(ModuleInner { name: name.into(), functions, globals, device }),
        })
    }

    /// Runs a kernel to its end. `params` are the bytes of its parameters, each exactly as long as
    /// the parameter.
    pub fn launch(&self, function: &Function, launch: Launch, params: &[&[u8]]) -> Result<Profile> {
        let code = &*function.code;
        let refuse = |message: String| Error::Launch { kernel: code.name.clone(), message };
        if !Arc::ptr_eq(&self.inner, &function.module.device) {
            return Err(refuse("the module was loaded on another device".into()));
        }
        for (what, size, limit) in
            [("grid", launch.grid, limits::GRID), ("block", launch.block, limits::BLOCK)]
        {
            if (0..3).any(|i| size[i] == 0 || size[i] > limit[i]) {
                return Err(refuse(format!("{what} {size:?}: 1 to {limit:?} are possible")));
            }
        }
        let threads: u64 = launch.block.iter().map(|&n| u64::from(n)).product();
        let limit = function.max_threads() as u64;
        if threads > limit {
            return Err(refuse(format!("{threads} threads a block: at most {limit} are possible")));
        }
        if let Some((needed, true)) = code.max_threads
            && needed != launch.block
        {
            return Err(refuse(format!("the kernel needs blocks of {needed:?} (.reqntid)")));
        }
        let offset = code.shared_bytes.next_multiple_of(code.dynamic_align);
        let shared_bytes = offset + launch.shared_bytes as usize;
        if shared_bytes > limits::SHARED_BYTES {
            return Err(refuse(format!(
                "{shared_bytes} bytes of shared memory: at most {} are possible",
                limits::SHARED_BYTES
            )));
        }
        if params.len() != code.params.len() {
            let (given, wanted) = (params.len(), code.params.len());
            return Err(refuse(format!("{given} arguments, but it has {wanted} parameters")));
        }
        let mut bytes = vec![0u8; code.param_bytes];
        for (i, (value, &(at, size, _))) in params.iter().zip(&code.params).enumerate() {
            if value.len() != size {
                let given = value.len();
                return Err(refuse(format!(
                    "argument {i} has {given} bytes, the parameter {size}"
                )));
            }
            bytes[at..at + size].copy_from_slice(value);
        }
        let word = |c: &[u8]| {
            let mut word = [0; 8];
            word[..c.len()].copy_from_slice(c);
            u64::from_ne_bytes(word)
        };
        let grid = Grid {
            code,
            memory: &self.inner.memory,
            checks: self.inner.options.checks,
            count: self.inner.options.count,
            blocks: launch.grid,
            threads: launch.block,
            shared_bytes,
            dynamic_bytes: launch.shared_bytes as usize,
            params: bytes.chunks(8).map(word).chain([0]).collect(),
        };
        let workers = self.inner.options.threads.unwrap_or_else(rayon::current_num_threads);
        let counters = exec::run(&grid, workers)?;
        Ok(if grid.count { counters.profile(&grid) } else { Profile::default() })
    }

    /// What lies at and around an address, in words: for messages.
    pub fn describe(&self, pointer: u64) -> String {
        self.inner.memory.nearby(pointer)
    }

    /// Checks that a range of device memory lies in one live allocation.
    pub fn check(&self, access: Access, pointer: u64, bytes: usize) -> Result<()> {
        match self.allocation(pointer) {
            Some((start, size)) if bytes as u64 <= start + size as u64 - pointer => Ok(()),
            _ => Err(Error::HostAccess { access, pointer, bytes, nearby: self.describe(pointer) }),
        }
    }
}

impl Module {
    fn made(&self, code: &Arc<Code>) -> Function {
        let params = code.params.iter().map(|&(_, bytes, align)| Param { bytes, align }).collect();
        Function { code: code.clone(), params, module: self.inner.clone() }
    }

    /// The kernel of this name.
    pub fn function(&self, name: &str) -> Result<Function> {
        match self.inner.functions.iter().find(|f| f.name == name) {
            Some(code) => Ok(self.made(code)),
            None => {
                let known: Vec<&str> =
                    self.inner.functions.iter().map(|f| f.name.as_str()).collect();
                Err(Error::NoFunction {
                    module: self.inner.name.clone(),
                    name: name.into(),
                    known: known.join(", "),
                })
            }
        }
    }

    /// All kernels in the order of the file.
    pub fn functions(&self) -> Vec<Function> {
        self.inner.functions.iter().map(|code| self.made(code)).collect()
    }

    /// Address and bytes of a global or constant variable.
    pub fn global(&self, name: &str) -> Result<(u64, usize)> {
        self.inner
            .globals
            .get(name)
            .copied()
            .ok_or_else(|| Error::NoGlobal { module: self.inner.name.clone(), name: name.into() })
    }
}

impl Function {
    /// The kernel's name.
    pub fn name(&self) -> &str {
        &self.code.name
    }

    /// Its parameters in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// 32-bit registers a thread, as softcuda allocated them (`ptxas` may need more or fewer).
    pub fn registers(&self) -> usize {
        self.code.registers
    }

    /// Bytes of static shared memory.
    pub fn shared_bytes(&self) -> usize {
        self.code.shared_bytes
    }

    /// Bytes of local memory a thread.
    pub fn local_bytes(&self) -> usize {
        self.code.local_bytes
    }

    /// Threads that a block may have.
    pub fn max_threads(&self) -> usize {
        let bound = self.code.max_threads;
        let threads =
            bound.map_or(limits::BLOCK_THREADS, |(t, _)| t.iter().map(|&n| u64::from(n)).product());
        threads.min(limits::BLOCK_THREADS) as usize
    }
}
