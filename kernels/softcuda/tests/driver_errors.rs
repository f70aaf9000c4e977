//! What a host program is told when something is wrong: a code of CUDA's, and the cause in words.

mod host;

use std::ptr::{null_mut, without_provenance_mut};

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUresult};
use host::{Host, arg, code, last_error, launch, load_ptx};

/// An error that has this code, and whose text has these words.
macro_rules! refused {
    ($outcome:expr, $code:ident, $($words:literal),+) => {
        assert_eq!(code($outcome), CUresult::$code, "{}", last_error());
        $(assert!(last_error().contains($words), "no {:?} in: {}", $words, last_error());)+
    };
}

#[test]
fn bad_ptx_is_refused_with_its_line() {
    let _host = Host::new();
    refused!(load_ptx("This is no PTX."), CUDA_ERROR_INVALID_PTX, ":1:");
    let unknown = host::PTX.replacen("fma.rn.f32", "fma.quickly.f32", 1);
    refused!(load_ptx(&unknown), CUDA_ERROR_INVALID_PTX, "fma.quickly.f32");
    let middle = host::PTX.find("ld.global").unwrap() + 5;
    refused!(load_ptx(&host::PTX[..middle]), CUDA_ERROR_INVALID_PTX, "PTX in memory:");
    let newer = host::PTX.replacen(".version 8.0", ".version 8.3", 1);
    refused!(load_ptx(&newer), CUDA_ERROR_UNSUPPORTED_PTX_VERSION, ".version 8.3");
    refused!(load_ptx(""), CUDA_ERROR_INVALID_PTX, ":");
    refused!(load_ptx("\x7fELF..."), CUDA_ERROR_NO_BINARY_FOR_GPU, "cubin");
    refused!(
        result::module::load(c"/nowhere/x.ptx".into()),
        CUDA_ERROR_FILE_NOT_FOUND,
        "/nowhere/x.ptx"
    );
}

#[test]
fn any_prefix_of_a_file_is_loaded_or_refused() {
    let host = Host::new();
    for end in (0..host::PTX.len()).step_by(97).filter(|&end| host::PTX.is_char_boundary(end)) {
        if let Ok(module) = load_ptx(&host::PTX[..end]) {
            // SAFETY: it was just loaded.
            unsafe { result::module::unload(module).unwrap() };
        }
    }
    host.cuda.synchronize().unwrap();
}

#[test]
fn what_is_not_there_is_not_found() {
    let host = Host::new();
    refused!(host::function(host.module(), "saxpy"), CUDA_ERROR_NOT_FOUND, "saxpy_f32");
    let none = 0xdead_usize as sys::CUmodule;
    refused!(host::function(none, "saxpy_f32"), CUDA_ERROR_INVALID_HANDLE, "0xdead");
    // SAFETY: wrong handles and pointers are looked up, not used.
    unsafe {
        let global = result::module::get_global(host.module(), c"question".into());
        refused!(global, CUDA_ERROR_NOT_FOUND, "question");
        let stream = 0x123_usize as sys::CUstream;
        refused!(result::stream::synchronize(stream), CUDA_ERROR_INVALID_HANDLE, "stream");
        refused!(result::free_sync(0x77), CUDA_ERROR_INVALID_VALUE, "0x77");
        refused!(result::free_host(0x77 as *mut _), CUDA_ERROR_INVALID_VALUE, "pinned");
        let module = host.module();
        let function = host::function(module, "rotate_u32").unwrap();
        result::module::unload(module).unwrap();
        let gone = launch(function, (1, 1, 0), host.stream, &mut []);
        refused!(gone, CUDA_ERROR_INVALID_HANDLE, "function");
    }
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let host = Host::new();
    let rotate = host.function("rotate_u32");
    let y = host.buffer(&[0u32; 64]);
    let mut args = [arg(&y)];
    let stream = host.stream;
    refused!(launch(rotate, (0, 64, 256), stream, &mut args), CUDA_ERROR_INVALID_VALUE, "grid");
    refused!(
        launch(rotate, (1 << 31, 64, 256), stream, &mut args),
        CUDA_ERROR_INVALID_VALUE,
        "grid"
    );
    refused!(launch(rotate, (1, 1025, 256), stream, &mut args), CUDA_ERROR_INVALID_VALUE, "block");
    let large = launch(rotate, (1, 64, 49 << 10), stream, &mut args);
    refused!(large, CUDA_ERROR_INVALID_VALUE, "rotate_u32", "dynamic shared memory");
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    // SAFETY: the function is alive.
    unsafe {
        let most = result::function::set_function_attribute(rotate, attribute, 164 << 10);
        refused!(most, CUDA_ERROR_INVALID_VALUE, "166912");
        result::function::set_function_attribute(rotate, attribute, 49 << 10).unwrap();
    }
    launch(rotate, (1, 64, 49 << 10), stream, &mut args).unwrap();
}

#[test]
fn wrong_arguments_are_refused() {
    let host = Host::new();
    let saxpy = host.function("saxpy_f32");
    let y = host.buffer(&[0f32; 4]);
    let (a, n) = (1f32, 4u32);
    // C says not how many there are: the third and fourth are an address that is not readable, and null.
    let mut unreadable = [arg(&y), arg(&y), 0x8 as *mut _, arg(&n)];
    let outcome = launch(saxpy, (1, 4, 0), host.stream, &mut unreadable);
    refused!(outcome, CUDA_ERROR_INVALID_VALUE, "argument 2", "4 parameters");
    let mut few = [arg(&y), arg(&y), arg(&a), null_mut()];
    let outcome = launch(saxpy, (1, 4, 0), host.stream, &mut few);
    refused!(outcome, CUDA_ERROR_INVALID_VALUE, "argument 3", "4 parameters");
    // As a buffer: 8 + 8 + 4 + 4 bytes, of which the last 4 are missing.
    let buffer = [y, y, 0];
    for (bytes, right) in [(24usize, true), (20, false), (48, false)] {
        let mut extra = [
            without_provenance_mut(1),
            arg(&buffer),
            without_provenance_mut(2),
            arg(&bytes),
            null_mut(),
        ];
        // SAFETY: the list ends with 0, and the buffer has 24 bytes.
        let outcome = unsafe {
            let list = extra.as_mut_ptr();
            sys::cuLaunchKernel(saxpy, 1, 1, 1, 4, 1, 1, 0, host.stream, null_mut(), list).result()
        };
        if right {
            outcome.unwrap();
        } else {
            refused!(outcome, CUDA_ERROR_INVALID_VALUE, "bytes of arguments", "24");
        }
    }
    // SAFETY: no arguments at all are refused before any is read.
    let outcome = unsafe {
        sys::cuLaunchKernel(saxpy, 1, 1, 1, 4, 1, 1, 0, host.stream, null_mut(), null_mut())
            .result()
    };
    refused!(outcome, CUDA_ERROR_INVALID_VALUE, "no arguments");
}

#[test]
fn memory_ends_with_an_error() {
    let host = Host::new();
    // SAFETY: what is allocated is freed once.
    unsafe {
        refused!(
            result::malloc_sync(host::MEMORY + 1),
            CUDA_ERROR_OUT_OF_MEMORY,
            "out of device memory"
        );
        refused!(result::malloc_sync(0), CUDA_ERROR_INVALID_VALUE, "0 bytes");
        let half = result::malloc_sync(host::MEMORY / 2).unwrap();
        refused!(result::malloc_async(host.stream, host::MEMORY), CUDA_ERROR_OUT_OF_MEMORY, "free");
        let short = [0u8; 16];
        let past = result::memcpy_htod_sync(half + host::MEMORY as u64 / 2 - 8, &short);
        refused!(past, CUDA_ERROR_INVALID_VALUE, "16 bytes");
        result::free_sync(half).unwrap();
        refused!(result::free_sync(half), CUDA_ERROR_INVALID_VALUE, "free");
    }
}

#[test]
fn a_fault_names_its_place_and_stays() {
    {
        let host = Host::new();
        let y = host.buffer(&[0f32; 4]);
        let n = 4u32;
        let overrun = host.function("overrun_f32");
        let fault = launch(overrun, (1, 1, 0), host.stream, &mut [arg(&y), arg(&n)]);
        refused!(
            fault,
            CUDA_ERROR_ILLEGAL_ADDRESS,
            "out of bounds",
            "overrun_f32",
            "16 bytes",
            "thread (0,0,0)"
        );
        // SAFETY: the stream is alive.
        let later = unsafe { result::stream::synchronize(host.stream) };
        refused!(later, CUDA_ERROR_ILLEGAL_ADDRESS, "earlier fault");
        // SAFETY: nothing is allocated any more.
        let memory = unsafe { result::malloc_sync(4) };
        refused!(memory, CUDA_ERROR_ILLEGAL_ADDRESS, "overrun_f32");
    }
    // The last context is gone: a new one begins anew.
    let host = Host::new();
    host.cuda.synchronize().unwrap();
    host.buffer(&[1u8]);
}

#[test]
fn leaks_are_found_when_the_last_context_ends() {
    let Host { cuda, alone, .. } = Host::new();
    // SAFETY: one is freed, the other is not.
    let (kept, freed) =
        unsafe { (result::malloc_sync(100).unwrap(), result::malloc_sync(100).unwrap()) };
    assert_ne!(kept, freed);
    // SAFETY: as above; the module's variables belong to it, and are no leak.
    unsafe { result::free_sync(freed).unwrap() };
    load_ptx(host::PTX).unwrap();
    let before = host::findings();
    drop(cuda);
    assert_eq!(host::findings(), before + 1);
    drop(alone);
}

#[test]
fn captures_refuse_what_a_gpu_refuses() {
    let host = Host::new();
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
    let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
    let wait = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    let (stream, other) = (host.stream, host::stream());
    let event = result::event::create(flags).unwrap();
    // SAFETY: all handles are alive.
    unsafe {
        let begin = || result::stream::begin_capture(stream, mode).unwrap();
        let end = || result::stream::end_capture(stream);
        refused!(end(), CUDA_ERROR_ILLEGAL_STATE, "not in capture");
        // Waiting for a stream in capture, and memory that could make it wait.
        begin();
        refused!(
            result::stream::synchronize(stream),
            CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
            "waited"
        );
        refused!(end(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "waited");
        begin();
        refused!(result::malloc_sync(4), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "in capture");
        refused!(end(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "in capture");
        // A stream that joined must be joined.
        begin();
        result::event::record(event, stream).unwrap();
        result::stream::wait_event(other, event, wait).unwrap();
        refused!(
            result::stream::end_capture(other),
            CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,
            "another stream"
        );
        refused!(end(), CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "waited");
        // An event from outside.
        result::event::record(event, other).unwrap();
        begin();
        let outside = result::stream::wait_event(stream, event, wait);
        refused!(outside, CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "outside");
        assert!(end().is_err());
        // An event inside of one cannot be waited for by the host.
        begin();
        result::event::record(event, stream).unwrap();
        assert!(result::event::query(event).is_err());
        assert!(end().is_err());
        // After all that, a capture still works.
        begin();
        let graph = end().unwrap();
        result::graph::destroy(graph).unwrap();
    }
}

#[test]
fn what_is_not_supported_says_so() {
    let host = Host::new();
    // SAFETY: these functions refuse before they read their arguments.
    unsafe {
        let flags = sys::CUmemAttach_flags::CU_MEM_ATTACH_GLOBAL;
        refused!(result::malloc_managed(4, flags), CUDA_ERROR_NOT_SUPPORTED, "managed");
        let array = sys::cuArrayDestroy(null_mut()).result();
        refused!(array, CUDA_ERROR_NOT_SUPPORTED, "cuArrayDestroy");
        assert_eq!(sys::cuStreamCreate(null_mut(), 0), CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    host.cuda.synchronize().unwrap();
}
