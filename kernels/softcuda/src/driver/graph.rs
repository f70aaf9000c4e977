//! Graphs: what a capture collected, made ready and replayed.

use std::ffi::{c_uint, c_ulonglong};
use std::sync::Arc;

use super::call::{export, invalid, no_such, put, unsupported, with};
use super::state::{self, Graph, Session};
use super::status::Outcome;
use super::work::Work;

/// `CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH`
const DEVICE_LAUNCH: u64 = 4;
/// ... with `AUTO_FREE_ON_LAUNCH`, `UPLOAD`, `USE_NODE_PRIORITY`
const FLAGS: u64 = 15;

export! {
    /// How many nodes a graph has. The nodes themselves have no handles.
    fn cuGraphGetNodes(graph: usize, nodes: *mut usize, count: *mut usize) in_context {
        if !nodes.is_null() {
            return Err(unsupported("handles of a graph's nodes"));
        }
        let number = with(|s| Ok(s.graph(graph)?.nodes.len()))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(count, number) }
    }
    /// A graph of its own with the same work.
    fn cuGraphClone(clone: *mut usize, graph: usize) in_context {
        let handle = state::handle();
        with(|s| {
            let copy = s.graph(graph)?.clone();
            s.graphs.insert(handle, copy);
            Ok(())
        })?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(clone, handle) }
    }
    /// Makes a graph ready to launch.
    fn cuGraphInstantiateWithFlags(executable: *mut usize, graph: usize, flags: c_ulonglong) in_context {
        if flags & !FLAGS != 0 || (flags & DEVICE_LAUNCH != 0 && flags & 1 != 0) {
            return Err(invalid(format!("{flags:#x} are no flags of an instantiation")));
        }
        if flags & DEVICE_LAUNCH != 0 {
            return Err(unsupported("graphs that a kernel launches"));
        }
        let handle = state::handle();
        with(|s| {
            let graph = Graph { flags, ..s.graph(graph)?.clone() };
            s.executables.insert(handle, graph);
            Ok(())
        })?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(executable, handle) }
    }
    /// Nothing is left to prepare.
    fn cuGraphUpload(executable: usize, stream: usize) in_context {
        with(|s| {
            s.executable(executable)?;
            s.capture_of(stream).map(|_| ())
        })
    }
    /// Does all of a graph's work, in the order of its capture. In a capture, its work joins that.
    fn cuGraphLaunch(executable: usize, stream: usize) in_context {
        let replay = with(|s| {
            let graph = s.executable(executable)?.clone();
            Ok(match s.capture_of(stream)? {
                Some(capture) => {
                    graph.nodes.iter().for_each(|work| s.captured(capture, stream, work.clone()));
                    None
                }
                None => Some((s.device.clone(), graph)),
            })
        })?;
        match replay {
            Some((device, graph)) => graph.nodes.iter().try_for_each(|work| work.perform(&device)),
            None => Ok(()),
        }
    }
    /// The flags of its instantiation.
    fn cuGraphExecGetFlags(executable: usize, flags: *mut c_ulonglong) in_context {
        let own = with(|s| Ok(s.executable(executable)?.flags))?;
        // SAFETY: the caller vouches for the pointer.
        unsafe { put(flags, own) }
    }
    /// Forgets a graph; what was made of it stays.
    fn cuGraphDestroy(graph: usize) in_context {
        with(|s| {
            let gone = s.graphs.remove(&graph).ok_or_else(|| no_such("graph", graph))?;
            s.release(gone);
            Ok(())
        })
    }
    /// Forgets a graph that was ready to launch.
    fn cuGraphExecDestroy(executable: usize) in_context {
        with(|s| {
            let none = || no_such("executable graph", executable);
            let gone = s.executables.remove(&executable).ok_or_else(none)?;
            s.release(gone);
            Ok(())
        })
    }
    /// Graphs made node by node are not supported; an empty one would be of no use.
    fn cuGraphCreate(_graph: *mut usize, _flags: c_uint) in_context {
        Err(unsupported("graphs that are not captured"))
    }
}

impl Session {
    fn graph(&self, handle: usize) -> Outcome<&Graph> {
        self.graphs.get(&handle).ok_or_else(|| no_such("graph", handle))
    }

    fn executable(&self, handle: usize) -> Outcome<&Graph> {
        self.executables.get(&handle).ok_or_else(|| no_such("executable graph", handle))
    }

    /// Frees a graph's memory if nothing else was made of it.
    fn release(&mut self, graph: Graph) {
        if Arc::strong_count(&graph.memory) == 1 {
            graph.memory.pointers().to_vec().into_iter().for_each(|pointer| self.forget(pointer));
        }
        let Graph { nodes, .. } = graph;
        drop::<Arc<Vec<Work>>>(nodes);
    }
}
