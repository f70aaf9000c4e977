//! The driver as a host program meets it: cudarc on the cdylib.

mod host;

use std::ffi::c_void;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUresult};
use host::{Host, arg, code, launch};

const N: usize = 1000;

fn values(seed: usize) -> Vec<f32> {
    (0..N).map(|i| ((i * 7 + seed) % 64) as f32 * 0.37).collect()
}

fn saxpy_on_host(y: &mut [f32], x: &[f32], a: f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = a.mul_add(*x, *y));
}

fn saxpy(
    function: sys::CUfunction,
    stream: sys::CUstream,
    y: u64,
    x: u64,
    a: f32,
) -> Result<(), DriverError> {
    let n = N as u32;
    launch(function, (8, 128, 0), stream, &mut [arg(&y), arg(&x), arg(&a), arg(&n)])
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn the_device_is_softcuda() {
    let host = Host::new();
    assert!(host.cuda.name().unwrap().starts_with("softcuda"));
    assert_eq!(host.cuda.compute_capability().unwrap(), (8, 0));
    assert_eq!(host.cuda.total_mem().unwrap(), host::MEMORY);
    assert!(host.cuda.has_async_alloc());
    let (free, total) = host.cuda.mem_get_info().unwrap();
    assert!(free <= total && total == host::MEMORY);
    assert_eq!(cudarc::driver::CudaContext::device_count().unwrap(), 1);
    assert_eq!(code(cudarc::driver::CudaContext::new(1)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    let error = DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert_eq!(error.error_name().unwrap(), c"CUDA_ERROR_ILLEGAL_ADDRESS");
}

#[test]
fn saxpy_gives_the_bits_of_the_host() {
    let host = Host::new();
    let (x, mut y) = (values(3), values(5));
    let (dx, dy) = (host.buffer(&x), host.buffer(&y));
    saxpy(host.function("saxpy_f32"), host.stream, dy, dx, 1.25).unwrap();
    saxpy_on_host(&mut y, &x, 1.25);
    assert_eq!(bits(&host.read::<f32>(dy, N)), bits(&y));
}

#[test]
fn cudarcs_safe_layer_copies_and_clears() {
    let host = Host::new();
    let stream = host.cuda.new_stream().unwrap();
    let x = values(1);
    let mut device = stream.clone_htod(&x).unwrap();
    let copy = device.clone();
    stream.memset_zeros(&mut device).unwrap();
    assert_eq!(stream.clone_dtoh(&copy).unwrap(), x);
    assert_eq!(stream.clone_dtoh(&device).unwrap(), vec![0.0; N]);
    // SAFETY: any bits are an f32, and the memory is written before it is read.
    let mut pinned = unsafe { host.cuda.alloc_pinned::<f32>(N) }.unwrap();
    pinned.as_mut_slice().unwrap().copy_from_slice(&x);
    stream.memcpy_htod(&pinned, &mut device).unwrap();
    assert_eq!(stream.clone_dtoh(&device).unwrap(), x);
    drop((device, copy, pinned));
    host.cuda.synchronize().unwrap();
    host.cuda.check_err().unwrap();
}

#[test]
fn streams_wait_for_events_and_events_tell_time() {
    let host = Host::new();
    let other = host::stream();
    let (x, mut y) = (values(2), values(4));
    let (dx, dy) = (host.buffer(&x), host.buffer(&y));
    let function = host.function("saxpy_f32");
    let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
    let (start, end) =
        (result::event::create(flags).unwrap(), result::event::create(flags).unwrap());
    // SAFETY: all handles are alive.
    unsafe {
        result::event::record(start, host.stream).unwrap();
        saxpy(function, host.stream, dy, dx, 2.0).unwrap();
        result::event::record(end, host.stream).unwrap();
        let wait = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        result::stream::wait_event(other, end, wait).unwrap();
        saxpy(function, other, dy, dx, -0.5).unwrap();
        result::stream::synchronize(other).unwrap();
        result::event::query(end).unwrap();
        let (there, back) =
            (result::event::elapsed(start, end), result::event::elapsed(end, start));
        assert!(there.unwrap() > 0.0 && back.unwrap() == -there.unwrap());
        let never = result::event::create(flags).unwrap();
        let wrong = result::event::elapsed(start, never);
        assert_eq!(code(wrong), CUresult::CUDA_ERROR_INVALID_HANDLE);
        result::event::destroy(never).unwrap();
        assert_eq!(code(result::event::destroy(never)), CUresult::CUDA_ERROR_INVALID_HANDLE);
    }
    saxpy_on_host(&mut y, &x, 2.0);
    saxpy_on_host(&mut y, &x, -0.5);
    assert_eq!(bits(&host.read::<f32>(dy, N)), bits(&y));
}

#[test]
fn dynamic_shared_memory_and_variables_of_a_module() {
    let host = Host::new();
    let y = host.buffer(&[0u32; 64]);
    let rotate = host.function("rotate_u32");
    launch(rotate, (1, 64, 64 * 4), host.stream, &mut [arg(&y)]).unwrap();
    let wanted: Vec<u32> = (0..64).map(|i| (i + 1) % 64).collect();
    assert_eq!(host.read::<u32>(y, 64), wanted);
    // SAFETY: the module is alive.
    let (pointer, bytes) =
        unsafe { result::module::get_global(host.module(), c"answer".into()) }.unwrap();
    assert_eq!(bytes, 4);
    assert_eq!(host.read::<u32>(pointer, 1), [42]);
}

#[test]
fn pools_count_what_is_taken_from_them() {
    let host = Host::new();
    // SAFETY: handles are alive, and the attribute's value is a 64-bit number.
    unsafe {
        let pool = result::device::get_default_mem_pool(0).unwrap();
        let used = || {
            let mut value = 0u64;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
            let place: *mut c_void = (&raw mut value).cast();
            result::mem_pool::get_attribute(pool, attribute, place).unwrap();
            value
        };
        let pointer = result::malloc_async(host.stream, 4096).unwrap();
        assert_eq!((pointer % 256, used()), (0, 4096));
        result::free_async(pointer, host.stream).unwrap();
        assert_eq!(used(), 0);
        assert_eq!(result::malloc_async(host.stream, 0).unwrap(), 0);
    }
}

#[test]
fn a_captured_graph_replays_with_the_same_bits() {
    let host = Host::new();
    let other = host::stream();
    let (x, start) = (values(6), values(8));
    let mut y = start.clone();
    let (dx, dy) = (host.buffer(&x), host.buffer(&start));
    let function = host.function("saxpy_f32");
    let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
    let wait = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
    // SAFETY: all handles are alive.
    unsafe {
        result::stream::begin_capture(host.stream, mode).unwrap();
        saxpy(function, host.stream, dy, dx, 0.3).unwrap();
        // The second half runs in another stream, which joins the capture and comes back.
        result::event::record(event, host.stream).unwrap();
        result::stream::wait_event(other, event, wait).unwrap();
        saxpy(function, other, dy, dx, -0.7).unwrap();
        result::event::record(event, other).unwrap();
        result::stream::wait_event(host.stream, event, wait).unwrap();
        let graph = result::stream::end_capture(host.stream).unwrap();
        assert_eq!(bits(&host.read::<f32>(dy, N)), bits(&start), "a capture does nothing yet");
        let flags = sys::CUgraphInstantiate_flags(0);
        let ready = result::graph::instantiate(graph, flags).unwrap();
        result::graph::destroy(graph).unwrap();
        result::graph::upload(ready, host.stream).unwrap();
        for _ in 0..3 {
            result::graph::launch(ready, host.stream).unwrap();
            saxpy_on_host(&mut y, &x, 0.3);
            saxpy_on_host(&mut y, &x, -0.7);
            assert_eq!(bits(&host.read::<f32>(dy, N)), bits(&y));
        }
        result::graph::exec_destroy(ready).unwrap();
        let gone = result::graph::launch(ready, host.stream);
        assert_eq!(code(gone), CUresult::CUDA_ERROR_INVALID_HANDLE);
    }
}

#[test]
fn memory_allocated_in_a_capture_belongs_to_the_graph() {
    let host = Host::new();
    let x = values(9);
    let dx = host.buffer(&x);
    let dy = host.buffer(&vec![0f32; N]);
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    let before = host.cuda.mem_get_info().unwrap().0;
    // SAFETY: all handles are alive, and the ranges lie in their allocations.
    unsafe {
        result::stream::begin_capture(host.stream, mode).unwrap();
        let scratch = result::malloc_async(host.stream, 4 * N).unwrap();
        result::memcpy_dtod_async(scratch, dx, 4 * N, host.stream).unwrap();
        result::memcpy_dtod_async(dy, scratch, 4 * N, host.stream).unwrap();
        result::free_async(scratch, host.stream).unwrap();
        let graph = result::stream::end_capture(host.stream).unwrap();
        let ready = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)).unwrap();
        for _ in 0..2 {
            result::graph::launch(ready, host.stream).unwrap();
            assert_eq!(host.read::<f32>(dy, N), x);
        }
        result::graph::destroy(graph).unwrap();
        result::graph::exec_destroy(ready).unwrap();
    }
    assert_eq!(host.cuda.mem_get_info().unwrap().0, before);
}

#[test]
fn occupancy_is_that_of_an_sm_80() {
    let host = Host::new();
    let rotate = host.function("rotate_u32");
    // SAFETY: the function is alive.
    unsafe {
        let blocks = |threads, dynamic| {
            result::occupancy::max_active_block_per_multiprocessor(rotate, threads, dynamic)
                .unwrap()
        };
        // 2048 threads, 32 blocks, 164 KiB of shared memory less 1 KiB a block.
        assert_eq!((blocks(256, 0), blocks(32, 0), blocks(1024, 40 << 10)), (8, 32, 2));
        assert_eq!(blocks(128, 40 << 10), 4);
        let room = result::occupancy::available_dynamic_shared_mem_per_block(rotate, 2, 1024);
        assert_eq!(room.unwrap(), 81 << 10);
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
        assert_eq!(result::function::get_function_attribute(rotate, attribute).unwrap(), 1024);
    }
}
