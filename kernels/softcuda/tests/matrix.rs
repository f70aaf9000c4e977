//! Tensor-core instructions and asynchronous copies, against plain loops over whole matrices.

mod common;

use common::*;

/// A small number for each place of a matrix; all products and sums of such are exact in every
/// type.
fn small(seed: u32, row: usize, column: usize) -> i32 {
    ((seed as usize + 7 * row + 3 * column + row * column) % 9) as i32 - 4
}

/// The registers of a fragment, lane by lane, as the ISA draws them: `place(register, element)` has
/// the row and column for lane (g, t).
fn fragment(
    registers: usize,
    each: usize,
    encode: impl Fn(i32) -> u32,
    value: impl Fn(usize, usize) -> i32,
    place: impl Fn(usize, usize, usize, usize) -> (usize, usize),
) -> Vec<u32> {
    let mut words = Vec::new();
    for lane in 0..32 {
        for register in 0..registers {
            let mut word = 0;
            for i in 0..each {
                let (row, column) = place(lane / 4, lane % 4, register, i);
                word |= encode(value(row, column)) << (32 / each * i);
            }
            words.push(word);
        }
    }
    words
}

/// What sums are.
#[derive(Clone, Copy, PartialEq)]
enum Sum {
    F32,
    F16,
    S32,
}

struct Shape {
    opcode: &'static str,
    k: usize,
    /// Elements in a register of A or B.
    each: usize,
    /// Registers of A, B, and of C and D.
    registers: [usize; 3],
    encode: fn(i32) -> u32,
    /// Added to the small numbers of A and B.
    shift: [i32; 2],
    sum: Sum,
}

/// A shape whose A and B hold small numbers of both signs.
fn shape(
    opcode: &'static str,
    (k, each): (usize, usize),
    registers: [usize; 3],
    encode: fn(i32) -> u32,
    sum: Sum,
) -> Shape {
    Shape { opcode, k, each, registers, encode, shift: [0; 2], sum }
}

fn f16(v: i32) -> u32 {
    half::f16::from_f32(v as f32).to_bits().into()
}

fn bf16(v: i32) -> u32 {
    half::bf16::from_f32(v as f32).to_bits().into()
}

fn tf32(v: i32) -> u32 {
    (v as f32).to_bits() | 0x1abc // the low bits are not part of the number
}

fn byte(v: i32) -> u32 {
    (v as u32) & 0xff
}

#[test]
fn mma_multiplies_matrices() {
    use Sum::*;
    let mut shapes = vec![
        shape("m16n8k16.row.col.f32.f16.f16.f32", (16, 2), [4, 2, 4], f16, F32),
        shape("m16n8k8.row.col.f32.f16.f16.f32", (8, 2), [2, 1, 4], f16, F32),
        shape("m16n8k16.row.col.f16.f16.f16.f16", (16, 2), [4, 2, 2], f16, F16),
        shape("m16n8k8.row.col.f16.f16.f16.f16", (8, 2), [2, 1, 2], f16, F16),
        shape("m16n8k16.row.col.f32.bf16.bf16.f32", (16, 2), [4, 2, 4], bf16, F32),
        shape("m16n8k8.row.col.f32.bf16.bf16.f32", (8, 2), [2, 1, 4], bf16, F32),
        shape("m16n8k8.row.col.f32.tf32.tf32.f32", (8, 1), [4, 2, 4], tf32, F32),
        shape("m16n8k4.row.col.f32.tf32.tf32.f32", (4, 1), [2, 1, 4], tf32, F32),
        shape("m16n8k32.row.col.s32.s8.s8.s32", (32, 4), [4, 2, 4], byte, S32),
        shape("m16n8k16.row.col.s32.s8.s8.s32", (16, 4), [2, 1, 4], byte, S32),
        shape("m8n8k16.row.col.s32.s8.s8.s32", (16, 4), [1, 1, 2], byte, S32),
    ];
    // Unsigned bytes around 128, which would be around -128 if they were signed.
    for (opcode, k, registers, shift) in [
        ("m16n8k32.row.col.s32.u8.u8.s32", 32, [4, 2, 4], [128, 128]),
        ("m16n8k32.row.col.s32.u8.s8.s32", 32, [4, 2, 4], [128, 0]),
        ("m16n8k16.row.col.s32.s8.u8.s32", 16, [2, 1, 4], [0, 128]),
        ("m8n8k16.row.col.s32.u8.u8.s32", 16, [1, 1, 2], [128, 128]),
        ("m8n8k16.row.col.s32.s8.u8.s32", 16, [1, 1, 2], [0, 128]),
    ] {
        shapes.push(Shape { shift, ..shape(opcode, (k, 4), registers, byte, S32) });
    }
    shapes.iter().for_each(multiplies);
    // Sums of integers wrap, or stay at the ends of s32.
    for opcode in ["m8n8k16.row.col.s32.u8.u8.s32", "m8n8k16.row.col.satfinite.s32.u8.u8.s32"] {
        let s = Shape { shift: [128; 2], ..shape(opcode, (16, 4), [1, 1, 2], byte, S32) };
        multiplies_from(&s, i32::MAX - 16 * 128 * 128);
    }
}

fn multiplies(s: &Shape) {
    multiplies_from(s, 0);
}

/// Compares with a plain loop; C is `start` and a small number.
fn multiplies_from(s: &Shape, start: i32) {
    let [na, nb, nc] = s.registers;
    let left = |r: usize, k: usize| small(1, r, k) + s.shift[0];
    let right = |k: usize, n: usize| small(2, k, n) + s.shift[1];
    let a = fragment(na, s.each, s.encode, left, |g, t, register, i| {
        (g + register % 2 * 8, t * s.each + i + register / 2 * 4 * s.each)
    });
    let b = fragment(nb, s.each, s.encode, right, |g, t, register, i| {
        (t * s.each + i + register * 4 * s.each, g)
    });
    let (number, in_one): (fn(i32) -> u32, usize) = match s.sum {
        Sum::S32 => (|v| v as u32, 1),
        Sum::F32 => (|v| (v as f32).to_bits(), 1),
        Sum::F16 => (f16, 2),
    };
    let at = |g: usize, t: usize, register: usize, i: usize| {
        let i = register * in_one + i;
        (g + i / 2 * 8, 2 * t + i % 2)
    };
    let first = |r: usize, n: usize| start - small(3, r, n);
    let c = fragment(nc, in_one, number, first, at);
    let sum = |r: usize, n: usize| {
        let dot: i32 = (0..s.k).map(|k| left(r, k) * right(k, n)).sum();
        if s.opcode.contains("satfinite") {
            first(r, n).saturating_add(dot)
        } else {
            first(r, n).wrapping_add(dot)
        }
    };
    let wanted = fragment(nc, in_one, number, sum, at);

    let kind = if s.sum == Sum::F32 { "f" } else { "r" };
    let words = execute(s.opcode, s.registers, kind, [&a, &b, &c]);
    assert_eq!(words, wanted, "{} from {start}", s.opcode);
}

/// The words of D, lane by lane, from those of A, B and C; `kind` is the letter of D's registers.
fn execute(opcode: &str, [na, nb, nc]: [usize; 3], kind: &str, fragments: [&[u32]; 3]) -> Vec<u32> {
    let device = checked();
    let [pa, pb, pc] = fragments.map(|words| upload(&device, words));
    let out = upload(&device, &vec![0; 32 * nc]);
    let list = |name: &str, first: usize, n: usize| {
        (0..n).map(|i| format!("%{name}{}", first + i)).collect::<Vec<_>>().join(", ")
    };
    let mut body = String::from(
        "ld.param.u64 %d0, [p0]; ld.param.u64 %d1, [p1]; ld.param.u64 %d2, [p2]; ld.param.u64 %d3, [p3];
         mov.u32 %r0, %tid.x;",
    );
    for (pointer, n, name, first) in [(0, na, "r", 1), (1, nb, "r", 5), (2, nc, kind, 20)] {
        body += &format!("mul.wide.u32 %d5, %r0, {}; add.u64 %d5, %d5, %d{pointer};\n", 4 * n);
        for i in 0..n {
            body += &format!("ld.global.b32 %{name}{}, [%d5+{}];\n", first + i, 4 * i);
        }
    }
    body += &format!(
        "mma.sync.aligned.{} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
        opcode,
        list(kind, 20, nc),
        list("r", 1, na),
        list("r", 5, nb),
        list(kind, 20, nc)
    );
    body += &format!("mul.wide.u32 %d5, %r0, {}; add.u64 %d5, %d5, %d3;\n", 4 * nc);
    for i in 0..nc {
        body += &format!("st.global.b32 [%d5+{}], %{kind}{};\n", 4 * i, 20 + i);
    }
    run(&device, &module(4, &body), 1, [32, 1, 1], &[pa, pb, pc, out]).expect("runs");
    download(&device, out, 32 * nc)
}

/// Numbers of all sizes, subnormal ones too: along k, each step rounds once.
#[test]
fn mma_adds_along_k_with_fused_multiply_adds() {
    let mut seed = 7u32;
    // Two halves with the highest bit of their exponents unset: below 2, and no infinity or NaN.
    let mut pairs = |n: usize| -> Vec<u32> {
        let next = |_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed ^ seed >> 15) & !(1 << 14 | 1 << 30)
        };
        (0..32 * n).map(next).collect()
    };
    let f16 = |bits: u16| half::f16::from_bits(bits).to_f32();
    let bf16 = |bits: u16| half::bf16::from_bits(bits).to_f32();
    type Wide<'a> = &'a dyn Fn(u16) -> f32;
    for (ty, k, wide) in [("f16", 16, &f16 as Wide<'_>), ("f16", 8, &f16), ("bf16", 16, &bf16)] {
        let (na, nb) = (k / 4, k / 8);
        let (a, b) = (pairs(na), pairs(nb));
        let c: Vec<u32> = pairs(4).iter().map(|&w| wide(w as u16).to_bits()).collect();
        let value = |words: &[u32], lane: usize, n: usize, register: usize, i: usize| {
            wide((words[n * lane + register] >> (16 * i)) as u16)
        };
        let left =
            |r: usize, x: usize| value(&a, r % 8 * 4 + x % 8 / 2, na, r / 8 + x / 8 * 2, x % 2);
        let right = |x: usize, n: usize| value(&b, n * 4 + x % 8 / 2, nb, x / 8, x % 2);
        let opcode = format!("m16n8k{k}.row.col.f32.{ty}.{ty}.f32");
        let got = execute(&opcode, [na, nb, 4], "f", [&a, &b, &c]);
        for (place, &word) in got.iter().enumerate() {
            let (lane, i) = (place / 4, place % 4);
            let (r, n) = (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);
            let wanted = (0..k)
                .fold(f32::from_bits(c[place]), |sum, x| left(r, x).mul_add(right(x, n), sum));
            assert_eq!(word, wanted.to_bits(), "{opcode}: {r}, {n}");
        }
    }
}

/// `m8n8k4` of f64: a lane has one element of A and of B, and two neighbours of C and D.
#[test]
fn mma_multiplies_doubles() {
    let half = |v: i32| 0.5 + f64::from(v);
    let a = |r: usize, k: usize| half(small(1, r, k));
    let b = |k: usize, n: usize| half(small(2, k, n));
    let c = |r: usize, n: usize| half(small(3, r, n));
    let words = |x: f64| [x.to_bits() as u32, (x.to_bits() >> 32) as u32];
    let (mut inputs, mut wanted) = (Vec::new(), Vec::new());
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        inputs.extend([a(g, t), b(t, g), c(g, 2 * t), c(g, 2 * t + 1)].map(words).concat());
        let sum = |n: usize| (0..4).map(|k| a(g, k) * b(k, n)).sum::<f64>() + c(g, n);
        wanted.extend([sum(2 * t), sum(2 * t + 1)].map(words).concat());
    }
    let body = "ld.param.u64 %d0, [p0]; ld.param.u64 %d1, [p1]; mov.u32 %r0, %tid.x;
        mul.wide.u32 %d2, %r0, 32; add.u64 %d1, %d1, %d2; mul.wide.u32 %d2, %r0, 16; add.u64 %d0, %d0, %d2;
        ld.global.v2.f64 {%g1, %g2}, [%d1]; ld.global.v2.f64 {%g3, %g4}, [%d1+16];
        mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%g5, %g6}, {%g1}, {%g2}, {%g3, %g4};
        st.global.v2.f64 [%d0], {%g5, %g6};";
    let device = checked();
    let (input, out) = (upload(&device, &inputs), upload(&device, &[0; 128]));
    run(&device, &module(2, body), 1, [32, 1, 1], &[out, input]).expect("runs");
    assert_eq!(download(&device, out, 128), wanted);
}

#[test]
fn ldmatrix_deals_out_rows_and_columns() {
    type Halves = fn(u32, u32, u32) -> (u32, u32);
    let straight: Halves = |m, g, t| (m * 64 + g * 8 + 2 * t, m * 64 + g * 8 + 2 * t + 1);
    let transposed: Halves = |m, g, t| (m * 64 + 2 * t * 8 + g, m * 64 + (2 * t + 1) * 8 + g);
    for (trans, wanted) in [("", straight), (".trans", transposed)] {
        for count in [1, 2, 4] {
            // Four matrices of 64 halves, half i holding i; lane l has the address of row l.
            let list: Vec<String> = (10..10 + count).map(|i| format!("%r{i}")).collect();
            let body = format!(
                "ld.param.u64 %d0, [p0]; mov.u32 %r0, %tid.x; mul.wide.u32 %d2, %r0, 16; add.u64 %d0, %d0, %d2;
                 .shared .align 16 .b8 all[512]; mov.u32 %r1, all; shl.b32 %r2, %r0, 4; add.u32 %r1, %r1, %r2;
                 mov.u32 %r3, 0; shl.b32 %r4, %r0, 3;
                 $fill: add.u32 %r5, %r3, %r4; cvt.u16.u32 %h1, %r5; shl.b32 %r6, %r3, 1; add.u32 %r6, %r6, %r1;
                 st.shared.u16 [%r6], %h1; add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, 8; @%p1 bra $fill;
                 mov.u32 %r10, 0; mov.u32 %r11, 0; mov.u32 %r12, 0; mov.u32 %r13, 0; bar.sync 0;
                 ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{}}}, [%r1];
                 st.global.v4.u32 [%d0], {{%r10, %r11, %r12, %r13}};",
                list.join(", ")
            );
            let device = checked();
            let out = upload(&device, &[0; 128]);
            run(&device, &module(1, &body), 1, [32, 1, 1], &[out]).expect("runs");
            for (i, word) in download(&device, out, 128).into_iter().enumerate() {
                let (lane, m) = (i as u32 / 4, i as u32 % 4);
                let (low, high) = wanted(m, lane / 4, lane % 4);
                let wanted = if m < count { low | high << 16 } else { 0 };
                assert_eq!(word, wanted, "matrix {m} of x{count}{trans}, lane {lane}");
            }
        }
    }
}

#[test]
fn asynchronous_copies_end_when_they_are_waited_for() {
    let inputs: Vec<u32> = (0..128).map(|i| i * i).collect();
    // Two groups: the first is waited for, then the second; the third is all zeros (source size 0).
    let body = ".shared .align 16 .b8 ring[1024]; mov.u32 %r1, ring; shl.b32 %r2, %r0, 4; add.u32 %r1, %r1, %r2;
         mul.wide.u32 %d5, %r0, 16; add.u64 %d5, %d5, %d1; mov.u32 %r9, 0;
         cp.async.cg.shared.global.L2::128B [%r1], [%d5], 16; cp.async.commit_group;
         cp.async.ca.shared.global [%r1+512], [%d5], 16, %r9; cp.async.commit_group;
         cp.async.wait_group 1; ld.shared.v4.u32 {%r3, %r4, %r5, %r6}, [%r1];
         cp.async.wait_all; ld.shared.u32 %r7, [%r1+512];
         add.u32 %r3, %r3, %r6; add.u32 %r3, %r3, %r7; st.global.u32 [%d0], %r3;";
    let words = lanes(32, &inputs, body).expect("runs");
    let wanted = |i: u32| (4 * i).pow(2) + (4 * i + 3).pow(2);
    assert_eq!(words, (0..32).map(wanted).collect::<Vec<_>>());
}
