//! All objects of the driver: one lock, tables of handles.
//!
//! A [`Session`] lives while any context does, as a real device's memory does. All contexts of the process share its
//! device, since they share an address space on a GPU too.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::capture::{Capture, Clock};
use super::config::Config;
use super::report;
use super::status::{Failure, Outcome, Status};
use super::work::{GraphMemory, Work};
use crate::{Device, Function, Module};

/// A stream that has not the null handle.
pub struct Stream {
    pub flags: u32,
    pub priority: i32,
    /// The capture it takes part in.
    pub capture: Option<usize>,
}

/// What an event stands for.
pub enum Recorded {
    Never,
    /// All work before it is done, since work is done when it is enqueued.
    At(Instant),
    /// A point of a capture.
    InCapture(usize, Clock),
}

/// An event.
pub struct Event {
    pub flags: u32,
    pub recorded: Recorded,
}

/// A kernel that a host program has a handle of.
#[derive(Clone)]
pub struct Kernel {
    pub module: usize,
    pub function: Function,
    /// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`
    pub dynamic_limit: usize,
}

/// A graph, or one made ready to launch.
#[derive(Clone)]
pub struct Graph {
    pub nodes: Arc<Vec<Work>>,
    pub memory: Arc<GraphMemory>,
    pub flags: u64,
}

/// A live allocation of device memory.
#[derive(Clone, Copy)]
pub struct Allocation {
    pub bytes: usize,
    /// The pool it came from; 0 for `cuMemAlloc`.
    pub pool: usize,
    /// Made inside of a capture: the graph frees it.
    pub of_graph: bool,
}

/// A memory pool: only numbers, since memory goes back at once.
#[derive(Clone, Copy, Default)]
pub struct Pool {
    pub threshold: u64,
    pub reuse: [i32; 3],
    pub used: u64,
    pub high: u64,
}

/// Everything that a context's end takes away.
pub struct Session {
    pub device: Device,
    pub contexts: HashMap<usize, u32>,
    /// Handle of the primary context and how often it was retained.
    pub primary: Option<(usize, u32)>,
    pub primary_flags: u32,
    pub limits: HashMap<u32, usize>,
    pub streams: HashMap<usize, Stream>,
    pub captures: HashMap<usize, Capture>,
    pub events: HashMap<usize, Event>,
    pub modules: HashMap<usize, Module>,
    pub kernels: HashMap<usize, Kernel>,
    pub graphs: HashMap<usize, Graph>,
    pub executables: HashMap<usize, Graph>,
    pub allocations: HashMap<u64, Allocation>,
    pub pools: HashMap<usize, Pool>,
    pub default_pool: usize,
    pub current_pool: usize,
    pub fault: Option<Failure>,
}

struct State {
    config: Option<Config>,
    session: Option<Session>,
    /// Handles are never used twice.
    next: usize,
}

static STATE: Mutex<State> = Mutex::new(State { config: None, session: None, next: 0x1000 });

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
    static PUSHED: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

fn lock() -> MutexGuard<'static, State> {
    // A panic under the lock was reported as an error; the tables are as they were before the call or after it.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread's context; 0 if it has none.
pub fn current() -> usize {
    CURRENT.get()
}

/// Makes `context` the thread's.
pub fn set_current(context: usize) {
    CURRENT.set(context);
}

/// The contexts below the thread's current one.
pub fn pushed<T>(body: impl FnOnce(&mut Vec<usize>) -> T) -> T {
    PUSHED.with_borrow_mut(body)
}

/// cuInit: reads the environment.
pub fn initialise() -> Outcome {
    let mut state = lock();
    if state.config.is_none() {
        let config = Config::from_environment();
        state.config = Some(config.map_err(|e| Failure::shown(Status::ERROR_INVALID_VALUE, e))?);
        drop(state);
        report::at_exit();
    }
    Ok(())
}

/// An error unless cuInit was called.
pub fn initialised() -> Outcome<Config> {
    let none = || Failure::new(Status::ERROR_NOT_INITIALIZED, "cuInit was not called");
    lock().config.clone().ok_or_else(none)
}

/// A handle that was never given out.
pub fn handle() -> usize {
    let mut state = lock();
    fresh(&mut state)
}

fn fresh(state: &mut State) -> usize {
    state.next += 0x10;
    state.next
}

/// Runs `body` on the session, whatever state it is in; with one if `create`.
pub fn session<T>(create: bool, body: impl FnOnce(&mut Session) -> Outcome<T>) -> Outcome<T> {
    let mut state = lock();
    if create && state.session.is_none() {
        let none = || Failure::new(Status::ERROR_NOT_INITIALIZED, "cuInit was not called");
        let options = state.config.as_ref().ok_or_else(none)?.options;
        let pool = fresh(&mut state);
        state.session = Some(Session {
            device: Device::new(options)?,
            contexts: HashMap::new(),
            primary: None,
            primary_flags: 0,
            limits: HashMap::new(),
            streams: HashMap::new(),
            captures: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            kernels: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            allocations: HashMap::new(),
            pools: HashMap::from([(pool, Pool { reuse: [1; 3], ..Pool::default() })]),
            default_pool: pool,
            current_pool: pool,
            fault: None,
        });
    }
    match &mut state.session {
        Some(session) => body(session),
        None => Err(Failure::new(Status::ERROR_INVALID_CONTEXT, "there is no context")),
    }
}

/// Runs `body` on the session if the thread has a context of it and no kernel has faulted.
pub fn with<T>(body: impl FnOnce(&mut Session) -> Outcome<T>) -> Outcome<T> {
    initialised()?;
    let context = current();
    if context == 0 {
        let text = "the thread has no current context";
        return Err(Failure::new(Status::ERROR_INVALID_CONTEXT, text));
    }
    let destroyed = || {
        let text = "the thread's current context was destroyed";
        Failure::new(Status::ERROR_CONTEXT_IS_DESTROYED, text)
    };
    let mut state = lock();
    let session = state.session.as_mut().filter(|s| s.contexts.contains_key(&context));
    let session = session.ok_or_else(destroyed)?;
    if let Some(fault) = &session.fault {
        let text = format!("the context is lost since an earlier fault: {}", fault.text);
        return Err(Failure::new(fault.status, text));
    }
    body(session)
}

/// A kernel faulted.
pub fn lose_context(failure: &Failure) {
    if let Some(session) = &mut lock().session {
        session.fault.get_or_insert_with(|| failure.clone());
    }
}

/// Ends the session if its last context is gone, or `always` (the program ends). Reports what it leaves behind.
pub fn end_session(always: bool) {
    let ended = {
        let mut state = lock();
        let over = state.session.as_ref().is_some_and(|s| always || s.contexts.is_empty());
        let path = state.config.as_ref().and_then(|c| c.profile.clone());
        over.then(|| (state.session.take(), path))
    };
    if let Some((Some(session), path)) = ended {
        report::at_end(session, path);
    }
}

impl Session {
    /// The kernel behind a handle.
    pub fn kernel(&mut self, handle: usize) -> Outcome<&mut Kernel> {
        self.kernels.get_mut(&handle).ok_or_else(|| super::call::no_such("function", handle))
    }

    /// The event behind a handle.
    pub fn event(&mut self, handle: usize) -> Outcome<&mut Event> {
        self.events.get_mut(&handle).ok_or_else(|| super::call::no_such("event", handle))
    }

    /// An error if the handle is no stream. The null stream, the legacy and the per-thread one always exist.
    pub fn check_stream(&self, handle: usize) -> Outcome {
        match handle <= 2 || self.streams.contains_key(&handle) {
            true => Ok(()),
            false => Err(super::call::no_such("stream", handle)),
        }
    }
}
