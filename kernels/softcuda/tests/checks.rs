//! Each check, with a kernel that trips it, and what its message has to name.

mod common;

use common::*;
use tilegrad_softcuda::{Access, Checks, Error};

/// The message of a body's error has all these parts.
fn trips(threads: u32, body: &str, parts: &[&str]) -> Error {
    let error = failure(lanes(threads, &[1, 2, 3, 4], body));
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "'{part}' is not in: {message}\n{body}");
    }
    assert!(message.contains("kernel k (test.ptx:"), "{message}");
    error
}

#[test]
fn out_of_bounds_names_thread_address_and_allocation() {
    // The off-by-one of every first kernel: thread 32 of 33 words writes beyond.
    let body = "st.global.u32 [%d0+4], %r0;";
    let parts = [
        "out of bounds: write of 4 bytes",
        "thread (32,0,0)",
        "0 bytes past the end of the allocation of 132 bytes",
    ];
    let error = trips(33, body, &parts);
    assert!(matches!(
        error,
        Error::OutOfBounds { access: Access::Write, bytes: 4, space: "global", .. }
    ));
    trips(
        1,
        "ld.global.u32 %r1, [0];",
        &["out of bounds: read", "at 0x0", "no allocation is near"],
    );
    trips(1, "ld.shared.u32 %r1, [4096];", &["of shared memory at 0x1000", "there are 0 bytes"]);
    let local = ".local .align 4 .b8 a[8]; ld.local.u32 %r1, [a+16];";
    trips(1, local, &["of local memory at 0x10", "there are 16 bytes"]);
    trips(1, "ld.u32 %r1, [%d1+16];", &["out of bounds: read", "0 bytes past the end"]);
    trips(1, "atom.global.add.u32 %r1, [%d1+16], 1;", &["out of bounds: atomic"]);
}

#[test]
fn misaligned_accesses() {
    let error =
        trips(1, "ld.global.u32 %r1, [%d1+2];", &["misaligned: read of 4 bytes of global memory"]);
    assert!(matches!(error, Error::Misaligned { .. }));
    trips(1, "ld.global.v2.u32 {%r1, %r2}, [%d1+4];", &["misaligned: read of 8 bytes"]);
    let shared = ".shared .align 16 .b8 a[64]; st.shared.v4.u32 [a+8], {%r0, %r0, %r0, %r0};";
    trips(1, shared, &["misaligned: write of 16 bytes of shared memory at 0x8"]);
}

#[test]
fn use_after_free() {
    let device = checked();
    let gone = upload(&device, &[1, 2, 3]);
    device.free(gone).expect("live");
    let text = module(1, "ld.param.u64 %d0, [p0];\nld.global.u32 %r1, [%d0+8];");
    let error = failure(run(&device, &text, 1, [1, 1, 1], &[gone]));
    assert!(matches!(error, Error::UseAfterFree { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("at byte 8 of the freed allocation of 12 bytes"), "{message}");
    let error = failure(device.free(gone)).to_string();
    assert!(error.contains("freed allocation"), "{error}");
}

#[test]
fn reads_of_uninitialised_memory() {
    let device = checked();
    let fresh = device.alloc(64).expect("memory");
    device.write(fresh, &[0; 32]).expect("in bounds");
    let text = module(
        1,
        "ld.param.u64 %d0, [p0];\nld.global.v2.u32 {%r1, %r2}, [%d0+24];\nld.global.u32 %r3, [%d0+32];",
    );
    let error = failure(run(&device, &text, 1, [1, 1, 1], &[fresh]));
    assert!(matches!(error, Error::Uninitialised { space: "global", .. }), "{error}");
    assert!(error.to_string().contains("at byte 32 of the allocation of 64 bytes"), "{error}");
    // A store makes it initialised, also if only half of it is.
    let text = module(
        1,
        "ld.param.u64 %d0, [p0]; st.global.u16 [%d0+32], 5; ld.global.u16 %r3, [%d0+32]; ld.global.u32 %r3, [%d0+32];",
    );
    let error = failure(run(&device, &text, 1, [1, 1, 1], &[fresh]));
    assert!(error.to_string().contains("read of 4 bytes"), "{error}");
    let shared = ".shared .align 4 .b8 a[64]; setp.eq.u32 %p1, %r0, 1; @%p1 st.shared.u32 [a], 1;
        bar.sync 0; ld.shared.u32 %r1, [a+4];";
    trips(32, shared, &["uninitialised: read of 4 bytes of shared memory at 0x4"]);
    let absent = "setp.lt.u32 %p1, %r0, 16; @%p1 bra $low; bra $end;
        $low: shfl.sync.down.b32 %r1, %r0, 8, 31, 0xffff; $end:";
    trips(32, absent, &["shfl reads a lane that does not take part", "thread (8,0,0)"]);
}

#[test]
fn races_on_shared_memory() {
    let start = ".shared .align 4 .b8 a[1024]; mov.u32 %r9, a; shl.b32 %r2, %r0, 2; add.u32 %r2, %r2, %r9;\n";
    // The missing barrier: the neighbour's word is read before all have written.
    let read = format!(
        "{start}st.shared.u32 [%r2], %r0;\nand.b32 %r3, %r2, 127;\nld.shared.u32 %r1, [%r3];"
    );
    let parts = ["shared memory race", "read after a write by thread", "on line"];
    let error = trips(64, &read, &parts);
    assert!(matches!(
        error,
        Error::SharedRace { access: Access::Read, other_access: Access::Write, .. }
    ));
    let fixed = read.replace("and", "bar.sync 0; and");
    lanes(64, &[], &fixed).expect("no race with the barrier");
    // Also within a warp: lanes are not in step unless bar.warp.sync says so.
    let warp = format!(
        "{start}st.shared.u32 [%r2], %r0;\nxor.b32 %r3, %r2, 4;\nld.shared.u32 %r1, [%r3];"
    );
    trips(32, &warp, &parts);
    lanes(32, &[], &warp.replace("xor", "bar.warp.sync -1; xor")).expect("no race");
    // A buffer that is used again too early: written while others may still read.
    let reuse = format!(
        "{start}st.shared.u32 [%r2], 1; bar.sync 0; ld.shared.u32 %r1, [a+12]; st.shared.u32 [%r2], 2;"
    );
    trips(64, &reuse, &["write after a read by thread"]);
    // All write the same word: different values race, the same value does not, atomics do not.
    trips(32, &format!("{start}st.shared.u32 [a], %r0;"), &["write after a write by thread"]);
    lanes(32, &[], &format!("{start}st.shared.u32 [a], 7;")).expect("the same value");
    let atomics = format!(
        "{start}setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.u32 [a], 0; bar.sync 0; red.shared.add.u32 [a], 1;"
    );
    lanes(64, &[], &atomics).expect("atomics");
    // Bytes of one word that belong to different threads do not race.
    let bytes =
        ".shared .align 4 .b8 a[64]; mov.u32 %r9, a; add.u32 %r2, %r0, %r9; st.shared.u8 [%r2], 1;";
    lanes(64, &[], bytes).expect("different bytes");
    // cp.async without its wait.
    let copy =
        ".shared .align 16 .b8 a[16]; mov.u32 %r2, a; cp.async.ca.shared.global [%r2], [%d1], 16;
        cp.async.commit_group; ld.shared.u32 %r1, [a];";
    trips(1, copy, &["cp.async that was not waited for"]);
}

#[test]
fn barriers_that_not_all_reach() {
    let body = "setp.lt.u32 %p1, %r0, 40; @%p1 bra $wait; ret; $wait: bar.sync 0;";
    let parts =
        ["barrier divergence", "40 of 64 threads wait at barrier 0", "[40, 0, 0] has exited"];
    let error = trips(64, body, &parts);
    assert!(matches!(error, Error::Barrier { .. }));
    // The hardware lets those go that are left.
    let lenient = device(Checks { barriers: false, ..Checks::all() }, false);
    lanes_on(&lenient, 64, &[], body).expect("runs");
    let body = "and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 0; @%p1 bra $even;
        bar.sync 0; bra $end;\n$even: bar.sync 0;\n$end:";
    trips(32, body, &["other threads wait at another barrier, on line"]);
    let body =
        "setp.lt.u32 %p1, %r0, 32; @%p1 bra $low; bar.sync 2;\nbra $end; $low: bar.sync 1; $end:";
    trips(64, body, &["no thread can go on; 32 threads on line"]);
    // .aligned: the lanes of a warp must agree on whether they execute it; whole warps need not.
    let half = "setp.lt.u32 %p1, %r0, 16;";
    let matrix = ".shared .align 16 .b8 all[512]; mov.u32 %r1, all;";
    for body in [
        "@%p1 bar.sync 0; @!%p1 bar.sync 0;",
        "@%p1 barrier.sync.aligned 0;",
        "@%p1 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r1];",
        "@%p1 mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r1, %r1}, {%r1},
           {%f1, %f2, %f3, %f4};",
    ] {
        let parts = ["barrier divergence", "lanes 0x0000ffff of 0xffffffff", ".aligned"];
        let error = trips(32, &format!("{matrix} {half} {body}"), &parts);
        assert!(matches!(error, Error::Barrier { .. }));
    }
    lanes_on(&lenient, 32, &[], &format!("{half} @%p1 bar.sync 0; @!%p1 bar.sync 0;"))
        .expect("runs");
    lanes(64, &[], "setp.lt.u32 %p1, %r0, 32; @%p1 bar.sync 1, 32; @!%p1 bar.sync 2, 32;")
        .expect("each warp agrees");
    trips(32, "bar.sync 16;", &["barrier 16: there are 0 to 15"]);
    trips(32, "bar.sync 1, 40;", &["40 threads: barriers count in warps of 32"]);
}

#[test]
fn lanes_that_wait_for_each_other_for_ever() {
    let body =
        "setp.lt.u32 %p1, %r0, 16; @%p1 bra $low; shfl.sync.idx.b32 %r1, %r0, 0, 31, -1; bra $end;
        $low: shfl.sync.idx.b32 %r1, %r0, 1, 31, -1; $end:";
    let error = trips(32, body, &["deadlock", "16 threads on line"]);
    assert!(matches!(error, Error::Deadlock { .. }));
    let body = "setp.lt.u32 %p1, %r0, 16; @%p1 bra $low; bra $end;
        $low: shfl.sync.idx.b32 %r1, %r0, 1, 31, 0xff00; $end:";
    trips(32, body, &["lane 0 is not in its own member mask 0x0000ff00"]);
    trips(
        16,
        "mov.b32 %r1, 0; .shared .align 16 .b8 a[512]; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [a];",
        &["not all 32"],
    );
    trips(32, "setp.eq.u32 %p1, %r0, 5; @%p1 trap;", &["trap", "thread (5,0,0)"]);
}

#[test]
fn leaks() {
    let device = checked();
    let kept = device.alloc(100).expect("memory");
    let freed = device.alloc(200).expect("memory");
    device.free(freed).expect("live");
    let leaks = device.leaks();
    assert_eq!(leaks.len(), 1);
    assert_eq!((leaks[0].pointer, leaks[0].bytes, leaks[0].serial), (kept, 100, 1));
    assert!(leaks[0].to_string().contains("100 bytes"));
}

#[test]
fn the_fault_of_the_lowest_block_is_reported() {
    let device = checked();
    let text = module(1, "mov.u32 %r1, %ctaid.x; setp.ge.u32 %p1, %r1, 3; @%p1 trap;");
    for _ in 0..10 {
        let error = failure(
            run(&device, &text, 1, [1, 1, 1], &[0; 1])
                .map(|_| ())
                .and_then(|()| run(&device, &text, 4, [1, 1, 1], &[0])),
        );
        assert!(error.to_string().contains("block (3,0,0)"), "{error}");
    }
}
