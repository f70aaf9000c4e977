//! What the tests of softcuda share: a kernel in a few lines, its launch, its results.
#![allow(dead_code, reason = "each test file uses its part")]

use tilegrad_softcuda::{Checks, Device, Error, Launch, Options, Profile, Result};

/// A device of 16 MiB with all checks.
pub fn checked() -> Device {
    device(Checks::all(), false)
}

/// A device of 16 MiB.
pub fn device(checks: Checks, count: bool) -> Device {
    Device::new(Options { checks, count, threads: Some(2), memory_bytes: 16 << 20 })
        .expect("memory")
}

/// A module with one kernel `k`, whose parameters are `count` u64 called `p0`, `p1`, ... .
pub fn module(count: usize, body: &str) -> String {
    let params: Vec<String> = (0..count).map(|i| format!(".param .u64 p{i}")).collect();
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k({})\n{{\n\
         .reg .pred %p<16>; .reg .b16 %h<32>; .reg .b32 %r<64>; .reg .f32 %f<64>;\n\
         .reg .b64 %d<32>; .reg .f64 %g<16>;\n{body}\nret;\n}}\n",
        params.join(", ")
    )
}

/// Runs kernel `k` of a text.
pub fn run(
    device: &Device,
    text: &str,
    grid: u32,
    block: [u32; 3],
    params: &[u64],
) -> Result<Profile> {
    let module = device.load("test.ptx", text)?;
    let bytes: Vec<[u8; 8]> = params.iter().map(|p| p.to_le_bytes()).collect();
    let slices: Vec<&[u8]> = bytes.iter().map(|b| &b[..]).collect();
    let launch = Launch { grid: [grid, 1, 1], block, shared_bytes: 0 };
    device.launch(&module.function("k")?, launch, &slices)
}

/// Device memory with these words in it.
pub fn upload(device: &Device, words: &[u32]) -> u64 {
    let pointer = device.alloc(4 * words.len()).expect("memory");
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    device.write(pointer, &bytes).expect("in bounds");
    pointer
}

/// Words of device memory.
pub fn download(device: &Device, pointer: u64, count: usize) -> Vec<u32> {
    let mut bytes = vec![0; 4 * count];
    device.read(pointer, &mut bytes).expect("in bounds");
    bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().expect("4 bytes"))).collect()
}

/// Runs a body for one warp (or so) whose threads each leave a word. `%d0` is the place of the
/// thread's word, `%r0` its number, `p1` points to `inputs`.
pub fn lanes(threads: u32, inputs: &[u32], body: &str) -> Result<Vec<u32>> {
    lanes_on(&checked(), threads, inputs, body)
}

/// As [`lanes`], on a given device.
pub fn lanes_on(device: &Device, threads: u32, inputs: &[u32], body: &str) -> Result<Vec<u32>> {
    let start = "ld.param.u64 %d0, [p0]; ld.param.u64 %d1, [p1]; mov.u32 %r0, %tid.x;\n\
                 mul.wide.u32 %d2, %r0, 4; add.u64 %d0, %d0, %d2; add.u64 %d2, %d1, %d2;";
    let text = module(2, &format!("{start}\n{body}"));
    let out = upload(device, &vec![0xdead_beef; threads as usize]);
    let input = upload(device, if inputs.is_empty() { &[0] } else { inputs });
    run(device, &text, 1, [threads, 1, 1], &[out, input])?;
    Ok(download(device, out, threads as usize))
}

/// The one word that each of a body's threads should leave: `%r1`, made of `%r2`, `%r3`, `%r4`,
/// which are the inputs.
pub fn scalar(inputs: [u32; 3], body: &str) -> u32 {
    let body = format!(
        "ld.global.u32 %r2, [%d1]; ld.global.u32 %r3, [%d1+4]; ld.global.u32 %r4, [%d1+8];\n\
         {body}\nst.global.u32 [%d0], %r1;"
    );
    let words = lanes(33, &inputs, &body).unwrap_or_else(|e| panic!("{e}\n{body}"));
    assert!(words.iter().all(|&w| w == words[0]), "lanes differ: {words:x?}\n{body}");
    words[0]
}

/// The error of a body.
pub fn failure(result: Result<impl std::fmt::Debug>) -> Error {
    match result {
        Err(error) => error,
        Ok(value) => panic!("no error, but {value:?}"),
    }
}
