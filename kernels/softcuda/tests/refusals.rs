//! Bad PTX: an error that names file, line and opcode, and never a panic.

mod common;

use common::*;
use proptest::prelude::*;

#[test]
fn unknown_instructions_are_refused_by_name_and_line() {
    for (instruction, message) in [
        ("frobnicate.b32 %r1, %r2", "unknown instruction"),
        ("add.cc.u32 %r1, %r2, %r3", "carries"),
        ("add.wide.f32 %f1, %f2, %f3", "modifier .wide"),
        ("add.rn.u32 %r1, %r2, %r3", "modifier .rn"),
        ("fma.f32 %f1, %f2, %f3, %f4", "needs a rounding"),
        ("fma.rz.f64 %g1, %g2, %g3, %g3", "nearest only"),
        ("add.u32 %r1, %r2", "takes 3 operands, not 2"),
        ("add.u64 %d1, %r1, %d2", "a register of type B32 for an operand of type U64"),
        ("add.u32 %d1, %r1, %r2", "a register of type B64 for a result of type U32"),
        ("add.f32 %f1, %f2, 1", "an integer for an operand of type F32"),
        ("setp.lt.b32 %p1, %r1, %r2", "comparison lt of B32"),
        ("setp.hi.s32 %p1, %r1, %r2", "comparison hi of S32"),
        ("shfl.bfly.b32 %r1, %r2, 1, 31", "needs .sync"),
        (
            "mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32 {%f1}, {%r1}, {%r1}, {%f1}",
            "needs .col",
        ),
        (
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1}, {%r1}, {%r1}, {%f1}",
            "a fragment of 1 registers",
        ),
        ("ld.global.v4.u64 {%d1, %d2, %d3, %d4}, [%d1]", "4 elements"),
        ("ld.global.u32 %r1, [%r2]", "an address of 4 bytes"),
        ("ld.param.u64 %d1, [p0+4]", "parameters end at byte 8"),
        ("st.const.u32 [%d1], %r1", "const memory cannot be written"),
        ("cp.async.cg.shared.global [%r1], [%d1], 8", ".cg copies 16"),
        ("tex.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [p0, {%f1, %f2}]", ""),
        ("wgmma.fence.sync.aligned", "unknown instruction"),
        ("bra $nowhere", "no label $nowhere"),
        ("call nothing", "unknown function nothing"),
        ("cvt.f32.f16 %f1, %f2", "a register of type F32 for an operand of type F16"),
        ("cvt.s32.f32 %r1, %f1", "rounding does not fit"),
        ("lop3.b32 %r1, %r2, %r3, %r4, 256", "0 to 255"),
        ("mov.u32 %r1, undefined", "unknown name undefined"),
        ("@%r1 ret", "a predicate is needed here"),
    ] {
        let text = module(1, &format!("{instruction};"));
        let error = failure(checked().load("bad.ptx", &text).map(|_| ())).to_string();
        assert!(error.starts_with("bad.ptx:8: "), "{error}");
        assert!(error.contains(message), "{instruction}: {error}");
    }
}

#[test]
fn what_is_not_ptx_is_refused() {
    let head = ".version 8.0\n.target sm_80\n.address_size 64\n";
    for (text, message) in [
        ("", "expected '.version'"),
        (".version 8.0 .target sm_80 .address_size 32", "only .address_size 64"),
        (".version 8.0 .target gfx90a", "unknown target"),
        (&format!("{head}.entry k("), "expected a parameter"),
        (&format!("{head}.entry k() {{ ret"), "expected an operand"),
        (&format!("{head}.entry k() {{ ret;"), "an instruction, a declaration or '}'"),
        (&format!("{head}.entry k() {{ mov.u32 %r1, 1; ret; }}"), "unknown register %r1"),
        (&format!("{head}.entry k() {{ ret; }} .entry k() {{ ret; }}"), "defined twice"),
        (&format!("{head}.entry k() {{ $a: $a: ret; }}"), "stands on line"),
        (
            &format!("{head}.func f() {{ call f; ret; }} .entry k() {{ call f; ret; }}"),
            "calls itself",
        ),
        (&format!("{head}.global .u32 x[4294967295];"), "larger than"),
        (&format!("{head}.global .u32 x = {{1, 2}};"), "8 initial bytes for 4"),
    ] {
        let error = failure(checked().load("bad.ptx", text).map(|_| ())).to_string();
        assert!(error.contains(message), "{error}\n{text}");
    }
}

/// A module whose version, target, static shared memory and parameters (bytes) are given.
fn sized(version: &str, target: &str, shared: usize, params: usize) -> String {
    format!(
        ".version {version}\n.target {target}\n.address_size 64\n\
         .visible .entry k(.param .align 1 .b8 p[{params}])\n{{\n\
         .reg .b32 %r<2>; .shared .align 1 .b8 tile[{shared}];\n\
         mov.u32 %r1, tile;\nret;\n}}\n"
    )
}

#[test]
fn what_the_device_cannot_do_is_refused_when_it_is_loaded() {
    let device = checked();
    for (version, target, shared, params) in
        [("8.0", "sm_80", 48 << 10, 0x1100), ("7.0", "sm_80, debug", 1, 1), ("6.3", "sm_70", 1, 1)]
    {
        device.load("good.ptx", &sized(version, target, shared, params)).expect("loads");
    }
    for (text, line, message) in [
        (sized("9.9", "sm_80", 4, 8), 1, ".version 9.9: a driver of CUDA 12.0 reads 1.0 to 8.0"),
        (sized("8.1", "sm_80", 4, 8), 1, ".version 8.1"),
        (sized("0.5", "sm_80", 4, 8), 1, ".version 0.5"),
        (sized("8.0", "sm_100", 4, 8), 2, "target sm_100: the device is an sm_80"),
        (sized("8.0", "sm_90a", 4, 8), 2, "target sm_90a: the device is an sm_80"),
        (sized("8.0", "sm_86", 4, 8), 2, "target sm_86"),
        (sized("8.0", "sm_80a", 4, 8), 2, "unknown target sm_80a"),
        (
            sized("8.0", "sm_80", 100_000, 8),
            4,
            "kernel k has 100000 bytes of static shared memory: at most 49152 are possible",
        ),
        (sized("8.0", "sm_80", 49_153, 8), 4, "49153 bytes of static shared memory"),
        (
            sized("8.0", "sm_80", 4, 6000),
            4,
            "kernel k has 6000 bytes of parameters: at most 4352 are possible",
        ),
        (sized("8.0", "sm_80", 4, 4353), 4, "4353 bytes of parameters"),
    ] {
        let error = failure(device.load("bad.ptx", &text).map(|_| ())).to_string();
        assert!(error.starts_with(&format!("bad.ptx:{line}: ")), "{error}");
        assert!(error.contains(message), "{error}");
        let (status, errors) = check(&text);
        assert!(!status && errors.contains(message), "{errors}");
    }
}

/// What `softcuda check` says of a text: whether it succeeds, and its standard error.
fn check(text: &str) -> (bool, String) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("softcuda-refusals-{}-{number}.ptx", std::process::id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, text).expect("a temporary file");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_softcuda"))
        .arg("check")
        .arg(&file)
        .output()
        .expect("softcuda runs");
    std::fs::remove_file(&file).expect("it was written");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A text with something of everything.
fn sample() -> String {
    module(
        2,
        ".shared .align 16 .b8 tile[256]; .local .align 8 .b8 stack[16];
         ld.param.u64 %d0, [p0]; mov.u32 %r0, %tid.x; mad.lo.s32 %r1, %r0, 4, 7; mul.wide.u32 %d1, %r0, 4;
         add.s64 %d2, %d0, %d1; setp.gt.u32 %p1, %r0, 5; @%p1 bra $skip;
         ld.global.v2.f32 {%f1, %f2}, [%d2+8]; fma.rn.f32 %f3, %f1, %f2, 0f3F800000; cvt.rn.f16.f32 %h1, %f3;
         st.shared.u16 [tile+2], %h1; $skip: bar.sync 0; shfl.sync.bfly.b32 %r2|%p2, %r1, 1, 31, -1;
         ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r3, %r4, %r5, %r6}, [tile];
         mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f1, %f2, %f3, %f4}, {%r3, %r4}, {%r5}, {%f1, %f2, %f3, %f4};
         atom.global.add.u32 %r7, [%d2], %r2; cp.async.ca.shared.global [%r1], [%d2], 4; cp.async.wait_all;
         mov.b64 {%r8, %r9}, %d2; lop3.b32 %r10, %r8, %r9, %r1, 0xca; st.global.u32 [%d2], %r10;",
    )
}

#[test]
fn every_prefix_of_a_text_is_refused_or_loads() {
    let text = sample();
    checked().load("whole.ptx", &text).expect("the whole loads");
    let device = checked();
    for end in 0..text.len() {
        if text.is_char_boundary(end) {
            let _ = device.load("prefix.ptx", &text[..end]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Characters exchanged, cut out and doubled: the loader says no (or yes), but does not panic;
    /// and what it says yes to runs to an end or an error.
    #[test]
    fn damaged_texts_do_not_crash(edits in prop::collection::vec((0usize..2000, 0u8..4, any::<u8>()), 1..6)) {
        let mut bytes = sample().into_bytes();
        for (at, how, with) in edits {
            let at = at % bytes.len();
            match how {
                0 => bytes[at] = b' ' + with % 95,
                1 => { bytes.remove(at); }
                2 => { let end = (at + with as usize % 40).min(bytes.len()); bytes.drain(at..end); }
                _ => {
                    let end = (at + with as usize % 40).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
            }
        }
        let text = String::from_utf8(bytes).expect("ASCII");
        let device = checked();
        if let Ok(module) = device.load("damaged.ptx", &text)
            && let Ok(k) = module.function("k")
            && k.params().len() == 2
        {
            let x = upload(&device, &[0; 64]);
            let (p, q) = (x.to_le_bytes(), 0u64.to_le_bytes());
            let bytes: [&[u8]; 2] = [&p, &q];
            let launch = tilegrad_softcuda::Launch { grid: [1, 1, 1], block: [32, 1, 1], shared_bytes: 0 };
            // A branch may have become an endless loop.
            if !text.contains("bra $skip") || text.find("bra $skip") < text.find("$skip:") {
                let _ = device.launch(&k, launch, &bytes);
            }
        }
    }
}
