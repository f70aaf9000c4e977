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

struct Shape {
    opcode: &'static str,
    k: usize,
    /// Elements in a register.
    each: usize,
    a: usize,
    b: usize,
    encode: fn(i32) -> u32,
    integer: bool,
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

fn s8(v: i32) -> u32 {
    (v as u32) & 0xff
}

#[test]
fn mma_multiplies_matrices() {
    for s in [
        Shape {
            opcode: "m16n8k16.row.col.f32.f16.f16.f32",
            k: 16,
            each: 2,
            a: 4,
            b: 2,
            encode: f16,
            integer: false,
        },
        Shape {
            opcode: "m16n8k8.row.col.f32.f16.f16.f32",
            k: 8,
            each: 2,
            a: 2,
            b: 1,
            encode: f16,
            integer: false,
        },
        Shape {
            opcode: "m16n8k16.row.col.f32.bf16.bf16.f32",
            k: 16,
            each: 2,
            a: 4,
            b: 2,
            encode: bf16,
            integer: false,
        },
        Shape {
            opcode: "m16n8k8.row.col.f32.bf16.bf16.f32",
            k: 8,
            each: 2,
            a: 2,
            b: 1,
            encode: bf16,
            integer: false,
        },
        Shape {
            opcode: "m16n8k8.row.col.f32.tf32.tf32.f32",
            k: 8,
            each: 1,
            a: 4,
            b: 2,
            encode: tf32,
            integer: false,
        },
        Shape {
            opcode: "m16n8k4.row.col.f32.tf32.tf32.f32",
            k: 4,
            each: 1,
            a: 2,
            b: 1,
            encode: tf32,
            integer: false,
        },
        Shape {
            opcode: "m16n8k32.row.col.s32.s8.s8.s32",
            k: 32,
            each: 4,
            a: 4,
            b: 2,
            encode: s8,
            integer: true,
        },
        Shape {
            opcode: "m16n8k16.row.col.s32.s8.s8.s32",
            k: 16,
            each: 4,
            a: 2,
            b: 1,
            encode: s8,
            integer: true,
        },
    ] {
        let a = fragment(
            s.a,
            s.each,
            s.encode,
            |r, c| small(1, r, c),
            |g, t, register, i| (g + register % 2 * 8, t * s.each + i + register / 2 * 4 * s.each),
        );
        let b = fragment(
            s.b,
            s.each,
            s.encode,
            |r, c| small(2, r, c),
            |g, t, register, i| (t * s.each + i + register * 4 * s.each, g),
        );
        let number = |v: i32| if s.integer { v as u32 } else { (v as f32).to_bits() };
        let at = |g: usize, t: usize, register: usize, _: usize| {
            (g + register / 2 * 8, 2 * t + register % 2)
        };
        let c = fragment(4, 1, number, |r, c| small(3, r, c), at);
        let sum = |r: usize, n: usize| {
            (0..s.k).map(|k| small(1, r, k) * small(2, k, n)).sum::<i32>() + small(3, r, n)
        };
        let wanted = fragment(4, 1, number, sum, at);

        let device = checked();
        let [pa, pb, pc] = [&a, &b, &c].map(|words| upload(&device, words));
        let out = upload(&device, &[0; 128]);
        let list = |name: &str, first: usize, n: usize| {
            (0..n).map(|i| format!("%{name}{}", first + i)).collect::<Vec<_>>().join(", ")
        };
        let kind = if s.integer { "r" } else { "f" };
        let first = if s.integer { 20 } else { 0 };
        let mut body = String::from(
            "ld.param.u64 %d0, [p0]; ld.param.u64 %d1, [p1]; ld.param.u64 %d2, [p2]; ld.param.u64 %d3, [p3];
             mov.u32 %r0, %tid.x;",
        );
        for (pointer, n, name, first) in [(0, s.a, "r", 1), (1, s.b, "r", 5), (2, 4, kind, first)] {
            body += &format!("mul.wide.u32 %d5, %r0, {}; add.u64 %d5, %d5, %d{pointer};\n", 4 * n);
            for i in 0..n {
                body += &format!("ld.global.b32 %{name}{}, [%d5+{}];\n", first + i, 4 * i);
            }
        }
        body += &format!(
            "mma.sync.aligned.{} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
            s.opcode,
            list(kind, first, 4),
            list("r", 1, s.a),
            list("r", 5, s.b),
            list(kind, first, 4)
        );
        body += "mul.wide.u32 %d5, %r0, 16; add.u64 %d5, %d5, %d3;\n";
        for i in 0..4 {
            body += &format!("st.global.b32 [%d5+{}], %{kind}{};\n", 4 * i, first + i);
        }
        run(&device, &module(4, &body), 1, [32, 1, 1], &[pa, pb, pc, out]).expect("runs");
        assert_eq!(download(&device, out, 128), wanted, "{}", s.opcode);
    }
}

#[test]
fn ldmatrix_deals_out_rows_and_columns() {
    for (trans, wanted) in [
        (
            "",
            (|m, g, t| (m * 64 + g * 8 + 2 * t, m * 64 + g * 8 + 2 * t + 1))
                as fn(u32, u32, u32) -> (u32, u32),
        ),
        (".trans", |m, g, t| (m * 64 + 2 * t * 8 + g, m * 64 + (2 * t + 1) * 8 + g)),
    ] {
        // Four matrices of 64 halves, half i holding i; lane l has the address of row l.
        let body = format!(
            ".shared .align 16 .b8 all[512]; mov.u32 %r1, all; shl.b32 %r2, %r0, 4; add.u32 %r1, %r1, %r2;
             mov.u32 %r3, 0; shl.b32 %r4, %r0, 3;
             $fill: add.u32 %r5, %r3, %r4; cvt.u16.u32 %h1, %r5; shl.b32 %r6, %r3, 1; add.u32 %r6, %r6, %r1;
             st.shared.u16 [%r6], %h1; add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, 8; @%p1 bra $fill;
             bar.sync 0;
             ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r10, %r11, %r12, %r13}}, [%r1];
             shl.b32 %r20, %r10, 1; xor.b32 %r21, %r11, %r20; xor.b32 %r22, %r12, 0; st.global.u32 [%d0], %r13;"
        );
        let words = lanes(32, &[], &body).expect("runs");
        for lane in 0..32 {
            let (low, high) = wanted(3, lane / 4, lane % 4);
            assert_eq!(words[lane as usize], low | high << 16, "lane {lane}{trans}");
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
