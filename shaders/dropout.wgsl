// Dropout.  x, y: [n].
//
//   dropout   y[i] = scale x[i] where word i of the random stream is at least `threshold`, else 0
//
// Being linear, it is its own backward pass. One thread takes 4 neighbouring elements, which is one Philox block: the
// same bits as on the CPU, whatever the grid. Philox 4x32-10 is the counter-based generator of Salmon et al.,
// "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011); its streams are explained in kernels/src/philox.rs.
// Limit: memory, and some 200 integer instructions a block.

alias Storage = f32;

override WORKGROUP: u32 = 256;

struct Params {
    vectors: u32,  // of 4 elements
    key0: u32,
    key1: u32,
    counter1: u32,  // words 1 to 3 of the counter; word 0 is the index of the block
    counter2: u32,
    counter3: u32,
    threshold: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<Storage>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<Storage>>;

// The upper 32 bits of a * b: WGSL has no 64-bit integers, so by halves of 16 bits.
fn multiply_high(a: u32, b: u32) -> u32 {
    let a0 = a & 0xFFFFu;
    let a1 = a >> 16u;
    let b0 = b & 0xFFFFu;
    let b1 = b >> 16u;
    let low = a0 * b0;
    let middle = a1 * b0 + (low >> 16u);  // at most (2^16 - 1)^2 + 2^16 - 1: no carry is lost
    let other = a0 * b1 + (middle & 0xFFFFu);
    return a1 * b1 + (middle >> 16u) + (other >> 16u);
}

// Ten rounds on one 128-bit counter under a 64-bit key.
fn philox4x32_10(counter: vec4<u32>) -> vec4<u32> {
    var c = counter;
    var key = vec2<u32>(params.key0, params.key1);
    for (var round = 0u; round < 10u; round++) {
        let high0 = multiply_high(0xD2511F53u, c.x);
        let high1 = multiply_high(0xCD9E8D57u, c.z);
        c = vec4<u32>(high1 ^ c.y ^ key.x, 0xCD9E8D57u * c.z, high0 ^ c.w ^ key.y, 0xD2511F53u * c.x);
        key += vec2<u32>(0x9E3779B9u, 0xBB67AE85u);  // golden ratio, sqrt(3) - 1
    }
    return c;
}

@compute @workgroup_size(WORKGROUP)
fn dropout(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * WORKGROUP + local;
    if i >= params.vectors {
        return;
    }
    let words = philox4x32_10(vec4<u32>(i, params.counter1, params.counter2, params.counter3));
    let kept = words >= vec4<u32>(params.threshold);
    let v = vec4<f32>(x[i]) * params.scale;
    y[i] = vec4<Storage>(bitcast<vec4<f32>>(select(vec4<u32>(0u), bitcast<vec4<u32>>(v), kept)));
}
