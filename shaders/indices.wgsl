// Labels and indices are data on the device, and may be wrong.
//
//   check_indices   notes the first index outside 0..bound: words[2 slot] is its position, words[2 slot + 1] the index
//
// One workgroup looks through all of them; `Indices` in kernels/src/wgpu/indices.rs reads the words when the host next
// waits. Dispatches run one after the other, so that a plain comparison keeps the smallest position of several.

override WORKGROUP: u32 = 256;
const NONE: u32 = 0xFFFFFFFF;

struct Params {
    count: u32,
    bound: u32,
    slot: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> indices: array<i32>;
@group(0) @binding(2) var<storage, read_write> words: array<u32>;

var<workgroup> first: atomic<u32>;

@compute @workgroup_size(WORKGROUP)
fn check_indices(@builtin(local_invocation_index) local: u32) {
    if local == 0u {
        atomicStore(&first, NONE);
    }
    workgroupBarrier();
    var mine = NONE;
    for (var i = local; i < params.count; i += WORKGROUP) {
        if indices[i] < 0 || bitcast<u32>(indices[i]) >= params.bound {
            mine = min(mine, i);
        }
    }
    if mine != NONE {
        atomicMin(&first, mine);
    }
    workgroupBarrier();
    let position = atomicLoad(&first);
    if local == 0u && position < words[2u * params.slot] {
        words[2u * params.slot] = position;
        words[2u * params.slot + 1u] = bitcast<u32>(indices[position]);
    }
}
