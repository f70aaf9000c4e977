//! Counters, on kernels whose numbers are known.

mod common;

use common::*;
use tilegrad_softcuda::{Checks, Class, Executed, Profile};

fn count(threads: u32, body: &str) -> Profile {
    let start = "ld.param.u64 %d0, [p0]; mov.u32 %r0, %tid.x; mul.wide.u32 %d2, %r0, 4;\n";
    let device = device(Checks::all(), true);
    let x = upload(&device, &vec![0; 32 * 64]);
    run(&device, &module(1, &format!("{start}{body}")), 2, [threads, 1, 1], &[x]).expect("runs")
}

fn of(profile: &Profile, class: Class) -> Executed {
    profile.instructions.iter().find(|(c, _)| *c == class).map(|(_, e)| *e).unwrap_or_default()
}

#[test]
fn sectors_show_coalescing() {
    // Neighbours: 128 bytes of a warp are 4 sectors. A stride of 128 bytes: one each. All the same:
    // one.
    for (address, sectors) in [
        ("add.u64 %d3, %d0, %d2;", 4),
        ("shl.b64 %d3, %d2, 5; add.u64 %d3, %d3, %d0;", 32),
        ("mov.u64 %d3, %d0;", 1),
        ("add.u64 %d3, %d0, %d2; add.u64 %d3, %d3, 4;", 5),
    ] {
        let p = count(32, &format!("{address} ld.global.f32 %f1, [%d3];"));
        assert_eq!((p.global_load.requests, p.global_load.units), (2, 2 * sectors), "{address}");
        assert_eq!((p.global_load.bytes, p.global_load.ideal), (2 * 128, 2 * 4));
    }
}

#[test]
fn wavefronts_show_bank_conflicts() {
    let start = ".shared .align 16 .b8 a[4096]; mov.u32 %r9, a;";
    for (address, kind, wavefronts, ideal) in [
        ("shl.b32 %r2, %r0, 2;", "f32 [%r2], %f1", 1, 1),
        ("shl.b32 %r2, %r0, 3;", "f32 [%r2], %f1", 2, 1),
        ("shl.b32 %r2, %r0, 7;", "f32 [%r2], %f1", 32, 1),
        ("shl.b32 %r2, %r0, 4;", "v4.f32 [%r2], {%f1, %f1, %f1, %f1}", 4, 4),
    ] {
        let body = format!(
            "{start} mov.f32 %f1, 0f3F800000; {address} add.u32 %r2, %r2, %r9; st.shared.{kind};"
        );
        let store = count(32, &body).shared_store;
        assert_eq!((store.units, store.ideal), (2 * wavefronts, 2 * ideal), "{address}");
        assert_eq!(store.conflicts(), 2 * (wavefronts - ideal));
    }
}

#[test]
fn instructions_lanes_and_flops() {
    let body = "add.u64 %d3, %d0, %d2; ld.global.f32 %f1, [%d3]; fma.rn.f32 %f2, %f1, %f1, %f1; add.f32 %f3, %f2, %f1;
        setp.lt.u32 %p1, %r0, 8; @%p1 mul.f32 %f3, %f3, %f3; @%p1 bra $skip; st.global.f32 [%d3], %f3; $skip:";
    let p = count(64, body);
    assert_eq!((p.threads, p.blocks), (128, 2));
    // fma, add, and mul in the first warp of each block, 8 of whose lanes it lets through.
    assert_eq!(of(&p, Class::Float32), Executed { warps: 2 * 2 * 3, lanes: 2 * (64 * 2 + 8) });
    assert_eq!(p.flops, 2 * (64 * 3 + 8));
    assert_eq!(of(&p, Class::StoreGlobal), Executed { warps: 4, lanes: 2 * 56 });
    assert_eq!((p.branches, p.divergent_branches), (4, 2));
    // Each warp loads 128 bytes; the first of a block stores 24 words, the second 32.
    assert_eq!(p.global_bytes(), 2 * (2 * 128 + 96 + 128));
    assert!((p.arithmetic_intensity() - 400.0 / 960.0).abs() < 1e-12);
    let body =
        "mov.f32 %f1, 0f00000000; mov.u32 %r1, 0; mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
        {%f1, %f2, %f3, %f4}, {%r1, %r1, %r1, %r1}, {%r1, %r1}, {%f1, %f1, %f1, %f1};";
    assert_eq!(count(32, body).flops, 2 * (2 * 16 * 8 * 16));
    let uncounted = device(Checks::none(), false);
    let x = upload(&uncounted, &[0; 64]);
    let profile = run(&uncounted, &module(1, "ld.param.u64 %d0, [p0];"), 1, [32, 1, 1], &[x]);
    assert_eq!(profile.expect("runs"), Profile::default());
}
