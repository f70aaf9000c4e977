//! Grids, branches, barriers, calls.

mod common;

use common::*;
use tilegrad_softcuda::{Device, Error, Launch, Options};

#[test]
fn a_grid_covers_an_array() {
    let device = checked();
    let n = 1000;
    let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.5).collect();
    let bits: Vec<u32> = x.iter().map(|v| v.to_bits()).collect();
    let (a, b) = (upload(&device, &bits), upload(&device, &vec![0; n]));
    let text = module(
        3,
        "ld.param.u64 %d0, [p0]; ld.param.u64 %d1, [p1]; ld.param.u64 %d2, [p2];
         mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ntid.x; mov.u32 %r2, %tid.x;
         mad.lo.s32 %r3, %r0, %r1, %r2;
         cvt.u64.u32 %d3, %r3;
         setp.ge.u64 %p1, %d3, %d2;
         @%p1 bra $done;
         shl.b64 %d4, %d3, 2;
         add.s64 %d5, %d0, %d4; add.s64 %d6, %d1, %d4;
         ld.global.f32 %f1, [%d5];
         fma.rn.f32 %f2, %f1, 0f40000000, 0f3F800000;
         st.global.f32 [%d6], %f2;
         $done:",
    );
    run(&device, &text, 8, [128, 1, 1], &[a, b, n as u64]).expect("runs");
    for (i, y) in download(&device, b, n).into_iter().enumerate() {
        assert_eq!(f32::from_bits(y), i as f32 + 1.0);
    }
}

#[test]
fn lanes_diverge_loop_and_meet_again() {
    // Collatz steps: every lane has its own number of rounds.
    let words = lanes(
        64,
        &[],
        "add.u32 %r1, %r0, 1; mov.u32 %r2, 0;
         $again: setp.eq.u32 %p1, %r1, 1; @%p1 bra $end;
         add.u32 %r2, %r2, 1; and.b32 %r3, %r1, 1; setp.eq.u32 %p2, %r3, 0;
         @%p2 bra $even;
         mad.lo.u32 %r1, %r1, 3, 1; bra.uni $again;
         $even: shr.u32 %r1, %r1, 1; bra.uni $again;
         $end: activemask.b32 %r4; setp.ne.u32 %p3, %r4, -1; @%p3 add.u32 %r2, %r2, 1000;
         st.global.u32 [%d0], %r2;",
    );
    let steps = |mut n: u64| {
        let mut count = 0;
        while n != 1 {
            n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
            count += 1;
        }
        count
    };
    assert_eq!(words.expect("runs"), (1..=64).map(steps).collect::<Vec<u32>>());
}

#[test]
fn a_barrier_shows_all_what_each_wrote() {
    let words = lanes(
        256,
        &[],
        ".shared .align 4 .b8 buffer[1024];
         mov.u32 %r1, buffer; shl.b32 %r2, %r0, 2; add.u32 %r3, %r1, %r2;
         mul.lo.u32 %r4, %r0, %r0;
         st.shared.u32 [%r3], %r4;
         bar.sync 0;
         sub.u32 %r5, 255, %r0; shl.b32 %r5, %r5, 2; add.u32 %r5, %r5, %r1;
         ld.shared.u32 %r6, [%r5];
         st.global.u32 [%d0], %r6;",
    );
    assert_eq!(words.expect("runs"), (0..256).map(|i: u32| (255 - i).pow(2)).collect::<Vec<_>>());
}

#[test]
fn functions_are_called_from_diverged_lanes() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64
        .func (.param .b32 result) triple(.param .b32 x)
        { .reg .b32 %r<4>; ld.param.u32 %r1, [x]; setp.eq.u32 %q, %r1, 4; .reg .pred %q; }
        .visible .entry k() { ret; }";
    // A register used before its declaration is an error with its line.
    assert!(checked().load("f.ptx", text).is_err());
    let text = ".version 8.0\n.target sm_80\n.address_size 64
        .func (.param .b32 result) triple(.param .b32 x)
        { .reg .b32 %r<4>; .reg .pred %q;
          ld.param.u32 %r1, [x]; setp.eq.u32 %q, %r1, 4; mul.lo.u32 %r2, %r1, 3;
          @%q bra $four; st.param.b32 [result+0], %r2; ret;
          $four: st.param.b32 [result+0], 4444; ret; }
        .func (.reg .b32 %out) inc(.reg .b32 %in) { add.u32 %out, %in, 1; ret; }
        .visible .entry k(.param .u64 out) {
          .reg .b32 %r<8>; .reg .b64 %d<4>; .reg .pred %p;
          ld.param.u64 %d0, [out]; mov.u32 %r0, %tid.x; mul.wide.u32 %d1, %r0, 4; add.u64 %d0, %d0, %d1;
          mov.u32 %r3, 7;
          setp.lt.u32 %p, %r0, 10; @!%p bra $skip;
          { .param .b32 a; .param .b32 r; st.param.b32 [a+0], %r0;
            call.uni (r), triple, (a); ld.param.b32 %r3, [r+0]; }
          $skip:
          @%p call (%r3), inc, (%r3);
          st.global.u32 [%d0], %r3; ret; }";
    let device = checked();
    let out = upload(&device, &[0; 32]);
    run(&device, text, 1, [32, 1, 1], &[out]).expect("runs");
    let wanted = |i: u32| match i {
        4 => 4445,
        0..10 => 3 * i + 1,
        _ => 7,
    };
    assert_eq!(download(&device, out, 32), (0..32).map(wanted).collect::<Vec<_>>());
}

#[test]
fn locks_do_not_starve() {
    // Each lane takes a lock in turn: the lane that has it must run though others spin before it in
    // the program.
    let device = checked();
    let text = module(
        1,
        "ld.param.u64 %d0, [p0];
         $try: atom.global.cas.b32 %r1, [%d0], 0, 1; setp.ne.u32 %p1, %r1, 0; @%p1 bra $try;
         ld.global.u32 %r2, [%d0+4]; add.u32 %r2, %r2, 1; st.global.u32 [%d0+4], %r2;
         membar.gl; atom.global.exch.b32 %r3, [%d0], 0;",
    );
    let cell = upload(&device, &[0, 0]);
    run(&device, &text, 2, [96, 1, 1], &[cell]).expect("runs");
    assert_eq!(download(&device, cell, 2), [0, 192]);
}

#[test]
fn variables_have_their_initial_values() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64
        .const .align 4 .f32 table[3] = {0f3F800000, 0f40000000, 2.5};
        .global .align 8 .u64 where = table;
        .global .align 1 .b8 bytes[5] = {1, 2, 3};
        .visible .entry k(.param .u64 out) {
          .reg .b32 %r<8>; .reg .b64 %d<4>; .reg .f32 %f<4>;
          ld.param.u64 %d0, [out]; ld.global.u64 %d1, [where]; ld.f32 %f1, [%d1+8];
          st.global.f32 [%d0], %f1; ld.const.f32 %f2, [table+4]; st.global.f32 [%d0+4], %f2;
          ld.global.u8 %r1, [bytes+2]; st.global.u32 [%d0+8], %r1; ret; }";
    let device = checked();
    let out = upload(&device, &[0; 3]);
    run(&device, text, 1, [1, 1, 1], &[out]).expect("runs");
    assert_eq!(download(&device, out, 3), [2.5f32.to_bits(), 2f32.to_bits(), 3]);
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let device =
        Device::new(Options { memory_bytes: 1 << 20, ..Options::default() }).expect("memory");
    let module = device.load("k.ptx", &module(2, "")).expect("loads");
    let k = module.function("k").expect("exists");
    assert!(module.function("l").is_err_and(|e| e.to_string().contains("it has k")));
    let fine = Launch { grid: [1, 1, 1], block: [32, 1, 1], shared_bytes: 0 };
    let (p, q) = ([0u8; 8], [0u8; 4]);
    let launch = |launch, params: &[&[u8]]| device.launch(&k, launch, params).map(|_| ());
    launch(fine, &[&p, &p]).expect("runs");
    for (bad, params, message) in [
        (fine, vec![&p[..]], "1 arguments, but it has 2"),
        (fine, vec![&p[..], &q[..]], "argument 1 has 4 bytes, the parameter 8"),
        (Launch { block: [33, 32, 1], ..fine }, vec![&p[..], &p[..]], "1056 threads"),
        (Launch { block: [1, 1, 65], ..fine }, vec![&p[..], &p[..]], "block [1, 1, 65]"),
        (Launch { grid: [1, 65536, 1], ..fine }, vec![&p[..], &p[..]], "grid [1, 65536, 1]"),
        (Launch { grid: [0, 1, 1], ..fine }, vec![&p[..], &p[..]], "grid [0, 1, 1]"),
        (Launch { shared_bytes: 200_000, ..fine }, vec![&p[..], &p[..]], "shared memory"),
    ] {
        let error = failure(launch(bad, &params)).to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn memory_that_is_not_there_is_refused() {
    let device =
        Device::new(Options { memory_bytes: 1 << 20, ..Options::default() }).expect("memory");
    let error = failure(device.alloc((1 << 20) + 1));
    let (asked, total) = ((1 << 20) + 1, 1 << 20);
    assert_eq!(error, Error::OutOfMemory { asked, free: total, total });
    assert!(device.alloc(usize::MAX).is_err());
    assert_eq!(failure(device.alloc(0)), Error::EmptyAllocation);
    // A variable of a module that does not fit takes nothing with it.
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.global .b8 a[1000]; .global .b8 b[2000000];";
    let error = failure(device.load("large.ptx", text).map(|_| ()));
    assert!(matches!(error, Error::OutOfMemory { asked: 2_000_000, .. }), "{error}");
    let half = device.alloc(1 << 19).expect("half");
    assert!(matches!(failure(device.alloc((1 << 19) + 1)), Error::OutOfMemory { .. }));
    device.free(half).expect("live");
    device.alloc(1 << 20).expect("all of it, again");
}
