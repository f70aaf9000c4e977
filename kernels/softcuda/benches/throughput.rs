//! Lane-instructions a second and core, with checks off and on, for kernels of different kinds.
//!
//! `cargo bench -p tilegrad-softcuda --bench throughput`. The goals: 400 million with checks off,
//! 100 million with all on.

use std::sync::OnceLock;
use std::time::Instant;

use tilegrad_softcuda::{Checks, Device, Launch, Options};

/// Seconds that this thread has had a processor, where the system tells (Linux), so that other
/// programs do not count; else since the first call.
fn seconds() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let of_thread = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = of_thread.and_then(|s| s.split(' ').next()?.parse::<f64>().ok());
    nanoseconds
        .map_or_else(|| START.get_or_init(Instant::now).elapsed().as_secs_f64(), |n| n * 1e-9)
}

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 x, .param .u64 y) {
    .reg .pred %p<4>; .reg .b32 %r<64>; .reg .f32 %f<64>; .reg .b64 %d<32>;
    .shared .align 16 .b8 tile[16384];
    ld.param.u64 %d0, [x]; ld.param.u64 %d1, [y]; mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x;
    mad.lo.s32 %r3, %r1, %r2, %r0; mul.wide.u32 %d2, %r3, 4; add.s64 %d3, %d0, %d2; add.s64 %d4, %d1, %d2;
    mov.u32 %r4, 0; mov.u32 %r20, tile; mov.f32 %f0, 0f3F800000;\n";

/// Multiply-adds in registers: 16 accumulators.
fn arithmetic() -> String {
    let mut body = String::from("ld.global.f32 %f1, [%d3];\n");
    for i in 0..16 {
        body += &format!("mov.f32 %f{}, %f1;\n", 20 + i);
    }
    body += "$loop:\n";
    for i in 0..16 {
        body += &format!("fma.rn.f32 %f{0}, %f{0}, %f1, %f0;\n", 20 + i);
    }
    body += "add.s32 %r4, %r4, 1; setp.lt.s32 %p1, %r4, 500; @%p1 bra $loop;\n";
    for i in 1..16 {
        body += &format!("add.f32 %f20, %f20, %f{};\n", 20 + i);
    }
    body + "st.global.f32 [%d4], %f20;"
}

/// y = 2x + y, again and again.
fn streaming() -> String {
    "$loop: ld.global.f32 %f1, [%d3]; ld.global.f32 %f2, [%d4]; fma.rn.f32 %f2, %f1, %f0, %f2;
     st.global.f32 [%d4], %f2; add.s32 %r4, %r4, 1; setp.lt.s32 %p1, %r4, 500; @%p1 bra $loop;"
        .into()
}

/// The inner loops of a matmul with 4x4 register tiles: shared memory written once, read much, two
/// barriers a round.
fn shared_tiles() -> String {
    let mut body = String::from(
        "and.b32 %r5, %r0, 15; shl.b32 %r5, %r5, 4; shr.u32 %r6, %r0, 4; shl.b32 %r6, %r6, 4; shl.b32 %r7, %r0, 4;
         add.u32 %r5, %r5, %r20; add.u32 %r6, %r6, %r20; add.u32 %r7, %r7, %r20;
         $outer: bar.sync 0; st.shared.v4.f32 [%r7], {%f0, %f0, %f0, %f0}; bar.sync 0; mov.u32 %r8, 0;
         $loop:\n",
    );
    for k in 0..4 {
        body += &format!("ld.shared.v4.f32 {{%f1, %f2, %f3, %f4}}, [%r5+{}];\n", 256 * k);
        body += &format!("ld.shared.v4.f32 {{%f5, %f6, %f7, %f8}}, [%r6+{}];\n", 256 * k);
        for i in 0..16 {
            body +=
                &format!("fma.rn.f32 %f{0}, %f{1}, %f{2}, %f{0};\n", 20 + i, 1 + i / 4, 5 + i % 4);
        }
    }
    body += "add.s32 %r8, %r8, 1; setp.lt.s32 %p1, %r8, 4; @%p1 bra $loop;
         add.s32 %r4, %r4, 1; setp.lt.s32 %p1, %r4, 30; @%p1 bra $outer;\n";
    body + "st.global.f32 [%d4], %f20;"
}

/// Integer arithmetic in a loop of different length for each lane.
fn divergent() -> String {
    "add.u32 %r4, %r3, 27;
     $loop: setp.le.u32 %p1, %r4, 1; @%p1 bra $end; and.b32 %r5, %r4, 1; setp.eq.u32 %p2, %r5, 0; @%p2 bra $even;
     mad.lo.u32 %r4, %r4, 3, 1; bra.uni $loop; $even: shr.u32 %r4, %r4, 1; bra.uni $loop;
     $end: st.global.u32 [%d4], %r4;"
        .into()
}

/// Tensor cores.
fn matrix() -> String {
    "mov.u32 %r5, 0x3c003c00; $loop:
     mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4},
       {%r5, %r5, %r5, %r5}, {%r5, %r5}, {%f1, %f2, %f3, %f4};
     add.s32 %r4, %r4, 1; setp.lt.s32 %p1, %r4, 200; @%p1 bra $loop; st.global.f32 [%d4], %f1;"
        .into()
}

/// Seconds of a measurement.
const SPAN: f64 = 0.3;

fn main() {
    let cases = [
        ("arithmetic", arithmetic(), 64),
        ("streaming", streaming(), 64),
        ("shared tiles", shared_tiles(), 64),
        ("divergent", divergent(), 64),
        ("tensor cores", matrix(), 16),
    ];
    println!(
        "{:<14}{:>12}{:>16}{:>16}{:>16}",
        "kernel", "lane-insns", "checks off", "checks on", "counting"
    );
    for (name, body, blocks) in cases {
        let text = format!("{HEAD}{body}\nret;\n}}\n");
        let mut line = String::new();
        let mut lanes = 0;
        for (checks, count) in
            [(Checks::none(), true), (Checks::none(), false), (Checks::all(), false)]
        {
            let options = Options { checks, count, threads: Some(1), memory_bytes: 64 << 20 };
            let device = Device::new(options).expect("memory");
            let module = device.load(name, &text).unwrap_or_else(|e| panic!("{e}"));
            let k = module.function("k").expect("exists");
            let n = 256 * blocks as usize;
            let (x, y) =
                (device.alloc(4 * n).expect("memory"), device.alloc(4 * n).expect("memory"));
            for p in [x, y] {
                device.fill(p, &1f32.to_le_bytes(), n).expect("in bounds");
            }
            let launch = Launch { grid: [blocks, 1, 1], block: [256, 1, 1], shared_bytes: 0 };
            let (px, py) = (x.to_le_bytes(), y.to_le_bytes());
            let mut run = || {
                let done = device.launch(&k, launch, &[&px, &py]).unwrap_or_else(|e| panic!("{e}"));
                lanes = lanes.max(done.total().lanes);
            };
            run();
            // The clock of a thread moves in steps of milliseconds: each of five times is of many launches.
            let times = (0..5).map(|_| {
                let (start, mut launches) = (seconds(), 0);
                while seconds() - start < SPAN {
                    run();
                    launches += 1;
                }
                (seconds() - start) / f64::from(launches)
            });
            let mut times: Vec<f64> = times.collect();
            times.sort_by(f64::total_cmp);
            let rate = lanes as f64 / times[times.len() / 2] / 1e6;
            let cell = format!("{rate:>10.0} M/s  ");
            line = if count { cell } else { format!("{}{cell}", std::mem::take(&mut line)) };
        }
        // The counting run came first, since the others divide by what it counted.
        let (counting, rest) = line.split_at(line.len().min(16));
        println!("{name:<14}{lanes:>12}{rest}{counting}");
    }
}
