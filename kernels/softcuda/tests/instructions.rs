//! Instructions of one lane, against values that were worked out by hand or by Rust's own
//! arithmetic.

mod common;

use common::*;

const F: fn(f32) -> u32 = f32::to_bits;

/// `%r1 = op %r2, %r3, %r4` of integers.
#[test]
fn integers() {
    let m = |v: i32| v as u32;
    for (inputs, body, wanted) in [
        ([7, 5, 0], "add.s32 %r1, %r2, %r3;", 12),
        ([m(i32::MAX), 5, 0], "add.sat.s32 %r1, %r2, %r3;", m(i32::MAX)),
        ([7, 9, 0], "sub.u32 %r1, %r2, %r3;", m(-2)),
        ([0x1_0001, 0x1_0001, 3], "mad.lo.u32 %r1, %r2, %r3, %r4;", 0x2_0004),
        ([u32::MAX, u32::MAX, 0], "mul.hi.u32 %r1, %r2, %r3;", u32::MAX - 1),
        ([m(-1), 5, 0], "mul.hi.s32 %r1, %r2, %r3;", m(-1)),
        ([m(-7), 2, 0], "div.s32 %r1, %r2, %r3;", m(-3)),
        ([m(-7), 2, 0], "rem.s32 %r1, %r2, %r3;", m(-1)),
        ([7, 0, 0], "div.u32 %r1, %r2, %r3;", u32::MAX),
        ([m(i32::MIN), m(-1), 0], "div.s32 %r1, %r2, %r3;", m(i32::MIN)),
        ([m(-7), 2, 0], "min.s32 %r1, %r2, %r3;", m(-7)),
        ([m(-7), 2, 0], "min.u32 %r1, %r2, %r3;", 2),
        ([m(-7), 0, 0], "abs.s32 %r1, %r2;", 7),
        ([7, 0, 0], "neg.s32 %r1, %r2;", m(-7)),
        ([1, 33, 0], "shl.b32 %r1, %r2, %r3;", 0),
        ([m(-8), 40, 0], "shr.s32 %r1, %r2, %r3;", m(-1)),
        ([m(-8), 1, 0], "shr.u32 %r1, %r2, %r3;", 0x7fff_fffc),
        ([0b1011, 0, 0], "popc.b32 %r1, %r2;", 3),
        ([1, 0, 0], "clz.b32 %r1, %r2;", 31),
        ([0x10, 0, 0], "bfind.u32 %r1, %r2;", 4),
        ([0x10, 0, 0], "bfind.shiftamt.u32 %r1, %r2;", 27),
        ([1, 0, 0], "brev.b32 %r1, %r2;", 1 << 31),
        ([0xabcd, 4, 8], "bfe.u32 %r1, %r2, %r3, %r4;", 0xbc),
        ([0xf, 0, 0], "bfi.b32 %r1, %r2, %r3, 8, 4;", 0xf00),
        ([0x3322_1100, 0x7766_5544, 0x5410], "prmt.b32 %r1, %r2, %r3, %r4;", 0x5544_1100),
        ([12, 10, 6], "lop3.b32 %r1, %r2, %r3, %r4, 0x96;", 12 ^ 10 ^ 6),
        ([12, 10, 6], "lop3.b32 %r1, %r2, %r3, %r4, 0x1b;", lop3_by_bits(12, 10, 6, 0x1b)),
        ([0x8000_0000, 1, 1], "shf.l.wrap.b32 %r1, %r2, %r3, %r4;", 3),
        ([0x0102_0304, 0x0101_01ff, 10], "dp4a.s32.s32 %r1, %r2, %r3, %r4;", 10 + 1 + 2 + 3 - 4),
        ([5, 9, 2], "sad.u32 %r1, %r2, %r3, %r4;", 6),
        ([0xff_ffff, 2, 1], "mad24.lo.u32 %r1, %r2, %r3, %r4;", 0x1ff_ffff),
        ([0, 0, 0], "cnot.b32 %r1, %r2;", 1),
        ([0xffff_fff0, 0, 0], "cvt.u16.u32 %h1, %r2; cvt.s32.s16 %r1, %h1;", 0xffff_fff0),
        ([0x80, 0, 0], "cvt.s32.s8 %r1, %r2;", 0xffff_ff80),
        ([300, 0, 0], "cvt.sat.u8.u32 %r1, %r2;", 255),
        ([5, 6, 0], "mul.wide.u32 %d5, %r2, %r3; cvt.u32.u64 %r1, %d5;", 30),
        (
            [u32::MAX, 2, 0],
            "mul.wide.s32 %d5, %r2, %r3; shr.s64 %d5, %d5, 8; cvt.u32.u64 %r1, %d5;",
            u32::MAX,
        ),
        ([1, 2, 0], "mov.b64 %d5, {%r2, %r3}; mov.b64 {%r4, %r1}, %d5;", 2),
        ([1, 2, 0], "mov.b64 %d5, {%r2, %r3}; mov.b64 {%r2, %r3}, %d5; sub.u32 %r1, %r3, %r2;", 1),
        ([0x0001_0002, 0, 0], "mov.b32 {%h1, %h2}, %r2; mov.b32 %r1, {%h2, %h1};", 0x0002_0001),
        ([3, 4, 0], "setp.lt.u32 %p1|%p2, %r2, %r3; selp.u32 %r1, 10, 20, %p2;", 20),
        (
            [3, 4, 0],
            "setp.eq.u32 %p1, %r2, 9; setp.lt.or.u32 %p3, %r3, %r2, !%p1; selp.u32 %r1, 1, 0, %p3;",
            1,
        ),
        ([3, 4, 0], "set.lt.u32.u32 %r1, %r2, %r3;", u32::MAX),
        ([3, m(-4), 0], "slct.u32.s32 %r1, %r2, 77, %r3;", 77),
        (
            [3, 0, 0],
            "mov.pred %p1, -1; not.pred %p2, %p1; xor.pred %p3, %p1, %p2; selp.u32 %r1, %r2, 0, %p3;",
            3,
        ),
        ([3, 0, 0], "setp.eq.u32 %p1, %r2, 3; @!%p1 mov.u32 %r1, 8; @%p1 mov.u32 %r1, 9;", 9),
    ] {
        assert_eq!(scalar(inputs, body), wanted, "{body} of {inputs:x?}");
    }
}

/// PTX ISA, `cvt`: NaN becomes 0 if neither is the source f64 nor the destination 64 bits wide,
/// else the number whose highest bit alone is set.
#[test]
fn not_a_number_as_an_integer() {
    const NAN32: u32 = 0x7fc0_0000;
    const NAN64: u32 = 0x7ff8_0000; // of the high word
    let single = "mov.b32 %f1, %r2;";
    let double = "mov.b64 %d5, {%r3, %r2}; mov.b64 %g1, %d5;";
    let half = "mov.b32 {%h1, %h2}, %r2;";
    let (high, low) = ("mov.b64 {%r4, %r1}, %d6;", "mov.b64 {%r1, %r4}, %d6;");
    for (nan, start, body, wanted) in [
        (NAN32, single, "cvt.rni.s32.f32 %r1, %f1;", 0),
        (NAN32, single, "cvt.rzi.u32.f32 %r1, %f1;", 0),
        (NAN32, single, "cvt.rpi.u16.f32 %h1, %f1; cvt.u32.u16 %r1, %h1;", 0),
        (0x7e00, half, "cvt.rni.s32.f16 %r1, %h1;", 0),
        (NAN64, double, "cvt.rni.s32.f64 %r1, %g1;", 1 << 31),
        (NAN64 | 1 << 31, double, "cvt.rzi.u32.f64 %r1, %g1;", 1 << 31),
        (NAN64, double, "cvt.rzi.s16.f64 %h1, %g1; cvt.s32.s16 %r1, %h1;", 0xffff_8000),
        (NAN64, double, "cvt.rzi.u16.f64 %h1, %g1; cvt.u32.u16 %r1, %h1;", 0x8000),
        (NAN64, double, "cvt.rzi.u8.f64 %r1, %g1;", 0x80),
        (NAN64, double, &format!("cvt.rmi.s64.f64 %d6, %g1; {high}"), 1 << 31),
        (NAN64, double, &format!("cvt.rmi.s64.f64 %d6, %g1; {low}"), 0),
        (NAN64, double, &format!("cvt.rni.u64.f64 %d6, %g1; {high}"), 1 << 31),
        (NAN32, single, &format!("cvt.rni.s64.f32 %d6, %f1; {high}"), 1 << 31),
        (NAN32, single, &format!("cvt.rzi.u64.f32 %d6, %f1; {high}"), 1 << 31),
        (NAN32, single, &format!("cvt.rzi.u64.f32 %d6, %f1; {low}"), 0),
        (0x7e00, half, &format!("cvt.rni.s64.f16 %d6, %h1; {high}"), 1 << 31),
    ] {
        assert_eq!(scalar([nan, 0, 0], &format!("{start} {body}")), wanted, "{body} of {nan:#x}");
    }
}

fn lop3_by_bits(a: u32, b: u32, c: u32, table: u32) -> u32 {
    (0..32).fold(0, |d, i| {
        let index = (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
        d | (table >> index & 1) << i
    })
}

#[test]
fn single_precision() {
    let nan = f32::NAN;
    for (inputs, body, wanted) in [
        ([1.5, 2.0, 0.0], "add.f32 %f1, %f2, %f3;", 3.5),
        ([1.0, 1e-10, 0.0], "add.rp.f32 %f1, %f2, %f3;", 1.0f32.next_up()),
        ([1.0, 1e-10, 0.0], "sub.rz.f32 %f1, %f2, %f3;", 1.0f32.next_down()),
        ([3.0, 1.0, 0.0], "sub.sat.f32 %f1, %f2, %f3;", 1.0),
        ([1e-38, 0.1, 0.0], "mul.ftz.f32 %f1, %f2, %f3;", 0.0),
        ([1e-38, 0.1, 0.0], "mul.f32 %f1, %f2, %f3;", 1e-38 * 0.1),
        ([0.1, 10.0, -1.0], "fma.rn.f32 %f1, %f2, %f3, %f4;", 0.1f32.mul_add(10.0, -1.0)),
        ([1.0, 3.0, 0.0], "div.rn.f32 %f1, %f2, %f3;", 1.0 / 3.0),
        // The f32 nearest to a third is above it, the one nearest to the root of 2 below.
        ([1.0, 3.0, 0.0], "div.rz.f32 %f1, %f2, %f3;", (1.0f32 / 3.0).next_down()),
        ([1.0, 3.0, 0.0], "div.rm.f32 %f1, %f2, %f3;", (1.0f32 / 3.0).next_down()),
        ([1.0, 3.0, 0.0], "div.rp.f32 %f1, %f2, %f3;", 1.0 / 3.0),
        ([-1.0, 3.0, 0.0], "div.rz.f32 %f1, %f2, %f3;", (-1.0f32 / 3.0).next_up()),
        ([-1.0, 3.0, 0.0], "div.rm.f32 %f1, %f2, %f3;", -1.0 / 3.0),
        ([-1.0, 3.0, 0.0], "div.rp.f32 %f1, %f2, %f3;", (-1.0f32 / 3.0).next_up()),
        ([2.0, 0.0, 0.0], "sqrt.rn.f32 %f1, %f2;", 2f32.sqrt()),
        ([2.0, 0.0, 0.0], "sqrt.rm.f32 %f1, %f2;", 2f32.sqrt()),
        ([2.0, 0.0, 0.0], "sqrt.rp.f32 %f1, %f2;", 2f32.sqrt().next_up()),
        ([3.0, 0.0, 0.0], "rcp.rm.f32 %f1, %f2;", (1.0f32 / 3.0).next_down()),
        ([1.0 + f32::EPSILON; 3], "mul.rn.f32 %f1, %f2, %f3;", 1.0 + 2.0 * f32::EPSILON),
        (
            [1.0 + f32::EPSILON; 3],
            "mul.rp.f32 %f1, %f2, %f3;",
            (1.0 + 2.0 * f32::EPSILON).next_up(),
        ),
        ([1.0, 1.0, 1e-10], "fma.rp.f32 %f1, %f2, %f3, %f4;", 1.0f32.next_up()),
        ([1.0, 1.0, -1e-10], "fma.rz.f32 %f1, %f2, %f3, %f4;", 1.0f32.next_down()),
        ([1.0, 1.0, -1e-10], "fma.rp.f32 %f1, %f2, %f3, %f4;", 1.0),
        ([4.0, 0.0, 0.0], "rsqrt.approx.f32 %f1, %f2;", 0.5),
        ([3.0, 0.0, 0.0], "ex2.approx.f32 %f1, %f2;", 8.0),
        ([8.0, 0.0, 0.0], "lg2.approx.f32 %f1, %f2;", 3.0),
        ([nan, 1.0, 0.0], "max.f32 %f1, %f2, %f3;", 1.0),
        ([2.0, 1.0, 0.0], "min.NaN.f32 %f1, %f2, %f3;", 1.0),
        ([-2.0, 0.0, 0.0], "abs.f32 %f1, %f2;", 2.0),
        ([-2.0, 3.0, 0.0], "copysign.f32 %f1, %f2, %f3;", -3.0),
        ([2.5, 0.0, 0.0], "cvt.rni.f32.f32 %f1, %f2;", 2.0),
        ([-2.5, 0.0, 0.0], "cvt.rmi.f32.f32 %f1, %f2;", -3.0),
        ([7.0, 0.0, 0.0], "cvt.sat.f32.f32 %f1, %f2;", 1.0),
        ([7.7, 0.0, 0.0], "cvt.rzi.s32.f32 %r1, %f2; cvt.rn.f32.s32 %f1, %r1;", 7.0),
        (
            [1.1, 0.0, 0.0],
            "cvt.f64.f32 %g1, %f2; add.f64 %g2, %g1, %g1; cvt.rn.f32.f64 %f1, %g2;",
            2.2,
        ),
        ([1.1, 2.0, 0.0], "cvt.rn.f16.f32 %h1, %f2; cvt.f32.f16 %f1, %h1;", 1.0996094),
        ([1.1, 2.0, 0.0], "cvt.rn.bf16.f32 %h1, %f2; cvt.f32.bf16 %f1, %h1;", 1.1015625),
        (
            [1.5, 2.0, 0.25],
            "cvt.rn.f16x2.f32 %r1, %f2, %f3; cvt.rn.f16x2.f32 %r2, %f4, %f4; \
           fma.rn.f16x2 %r3, %r1, %r2, %r1; mov.b32 {%h1, %h2}, %r3; cvt.f32.f16 %f1, %h2;",
            1.875,
        ),
        (
            [1.5, 2.0, 0.25],
            "cvt.rn.bf16x2.f32 %r1, %f2, %f3; mov.b32 {%h1, %h2}, %r1; \
           cvt.f32.bf16 %f1, %h1;",
            2.0,
        ),
        ([1.0, 2.0, 0.0], "mov.b32 %r1, %f2; mov.b32 %f1, %r1;", 1.0),
        ([1.0, 2.0, 0.0], "setp.ltu.f32 %p1, %f2, 0f7FC00000; selp.f32 %f1, %f3, %f2, %p1;", 2.0),
        ([1.0, 2.0, 0.0], "setp.ne.f32 %p1, %f2, 0f7FC00000; selp.f32 %f1, %f3, %f2, %p1;", 1.0),
        ([1.0, 2.0, 0.0], "testp.finite.f32 %p1, %f2; selp.f32 %f1, %f3, %f2, %p1;", 2.0),
    ] {
        let body = format!(
            "mov.b32 %f2, %r2; mov.b32 %f3, %r3; mov.b32 %f4, %r4; {body} mov.b32 %r1, %f1;"
        );
        let got = f32::from_bits(scalar(inputs.map(F), &body));
        assert_eq!(got, wanted, "{body} of {inputs:?}");
    }
}

#[test]
fn doubles() {
    let body = "cvt.rn.f64.u32 %g1, %r2; cvt.rn.f64.u32 %g2, %r3; div.rn.f64 %g3, %g1, %g2; sqrt.rn.f64 %g4, %g3; \
        fma.rn.f64 %g5, %g4, %g4, %g1; min.f64 %g6, %g5, %g2; neg.f64 %g6, %g6; cvt.rni.s32.f64 %r1, %g6;";
    assert_eq!(scalar([8, 2, 0], body), (-2i32) as u32);
    // rcp.approx.ftz.f64 keeps the high word only.
    let body =
        "mov.f64 %g1, 0d4008000000000000; rcp.approx.ftz.f64 %g2, %g1; mov.b64 {%r1, %r3}, %g2;";
    assert_eq!(scalar([0; 3], body), 0);
}

#[test]
fn memory_of_all_widths() {
    let body = "ld.global.v2.u32 {%r5, %r6}, [%d1]; ld.global.u16 %h1, [%d1+2]; ld.global.s8 %r7, [%d1+3]; \
        cvt.u32.u16 %r8, %h1; add.u32 %r1, %r5, %r6; add.u32 %r1, %r1, %r8; add.u32 %r1, %r1, %r7;";
    let inputs = [0x8001_0002, 7, 0];
    let wanted = 0x8001_0002u32.wrapping_add(7 + 0x8001).wrapping_add(0xffff_ff80);
    assert_eq!(scalar(inputs, body), wanted);
    let body = ".local .align 16 .b8 stack[32]; mov.u64 %d5, stack; cvta.local.u64 %d6, %d5; \
        st.local.v4.u32 [%d5], {%r2, %r3, %r4, %r2}; ld.u32 %r5, [%d6+8]; st.u8 [%d6+8], 255; \
        ld.local.u32 %r6, [stack+8]; sub.u32 %r1, %r6, %r5;";
    assert_eq!(scalar([1, 2, 0x300], body), 0xff);
    let body = ".shared .align 8 .b8 all[8]; mov.u64 %d5, all; cvta.shared.u64 %d6, %d5; cvta.to.shared.u64 %d7, %d6; \
        setp.eq.u64 %p1, %d5, %d7; isspacep.shared %p2, %d6; and.pred %p1, %p1, %p2; \
        mov.u32 %r9, %tid.x; setp.eq.u32 %p3, %r9, 0; @%p3 st.shared.u32 [all+4], %r3; bar.sync 0; \
        ld.u32 %r5, [%d6+4]; selp.u32 %r1, %r5, 0, %p1;";
    assert_eq!(scalar([1, 42, 0], body), 42);
}

/// PTX ISA, `atom` and `red`: `.add.f32` on global memory flushes subnormal inputs and results to
/// zeros of their sign, on shared memory it does not.
#[test]
fn atomic_sums_keep_subnormals_in_shared_memory_only() {
    const TINY: u32 = 0x0000_1234;
    const LEAST: u32 = 0x0080_0000; // the smallest normal f32
    let start = ".shared .align 8 .b8 all[128]; mov.u32 %r9, all; shl.b32 %r8, %r0, 2; add.u32 %r9, %r9, %r8;
        ld.global.f32 %f1, [%d1]; ld.global.f32 %f2, [%d1+4]; st.shared.f32 [%r9], %f1; st.global.f32 [%d0], %f1;
        cvt.u64.u32 %d6, %r9; cvta.shared.u64 %d6, %d6;";
    let fetch = "ld.shared.f32 %f3, [%r9]; st.global.f32 [%d0], %f3;";
    // Odd lanes add to global memory, even ones to shared memory, with one instruction.
    let mixed = format!(
        "and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 1; selp.b64 %d7, %d0, %d6, %p1;
         red.add.f32 [%d7], %f2; @%p1 bra $end; {fetch} $end:"
    );
    for (old, value, global, shared) in [
        (TINY, 0, 0, TINY),
        (TINY | 1 << 31, 1 << 31, 1 << 31, TINY | 1 << 31),
        (0, TINY, 0, TINY),
        (LEAST, TINY, LEAST, LEAST | TINY),
        (LEAST + 0x40_0000, LEAST | 1 << 31, 0, 0x40_0000),
        (F(1.5), F(2.25), F(3.75), F(3.75)),
    ] {
        for (body, even, odd) in [
            ("red.global.add.f32 [%d0], %f2;", global, global),
            ("atom.global.add.f32 %f3, [%d0], %f2;", global, global),
            ("atom.add.f32 %f3, [%d0], %f2;", global, global),
            (&format!("red.shared.add.f32 [%r9], %f2; {fetch}"), shared, shared),
            (&format!("atom.shared.add.f32 %f3, [%r9], %f2; {fetch}"), shared, shared),
            (&format!("red.add.f32 [%d6], %f2; {fetch}"), shared, shared),
            (&mixed, shared, global),
        ] {
            let words = lanes(32, &[old, value], &format!("{start} {body}")).expect("runs");
            let wanted: Vec<u32> = (0..32).map(|i| if i % 2 == 0 { even } else { odd }).collect();
            assert_eq!(words, wanted, "{body} of {old:#x} and {value:#x}");
        }
    }
}

#[test]
fn switches_jump_by_index() {
    let words = lanes(
        32,
        &[],
        "rem.u32 %r2, %r0, 3; mov.u32 %r1, 0;
         $table: .branchtargets $zero, $one, $two;
         brx.idx %r2, $table;
         $zero: add.u32 %r1, %r1, 100; bra $end;
         $one: add.u32 %r1, %r1, 10;
         $two: add.u32 %r1, %r1, 1;
         $end: st.global.u32 [%d0], %r1;",
    );
    let wanted = |i: u32| [100, 11, 1][i as usize % 3];
    assert_eq!(words.expect("runs"), (0..32).map(wanted).collect::<Vec<_>>());
}
