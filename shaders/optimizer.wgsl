// Parameter updates, one tensor a dispatch. The formulas are in kernels/src/reference/optimizer.rs.
//
//   sgd_plain      p -= lr g,                 g = scale gradient + weight_decay p
//   sgd_momentum   v = momentum v + fresh g,  p -= lr (g + momentum v if nesterov, else v)
//   adamw          m = beta1 m + fresh1 g,    v = beta2 v + fresh2 g²,   g = scale gradient,
//                  p = keep p - lr (m / correction1) / (sqrt(v / correction2) + epsilon)
//
// All in one kernel: a parameter and its state are read and written once. `scale` is one f32 on the device, which the
// host need not know; SCALED is 0 where there is none. State has the parameter's dtype. A thread takes 4 elements.
// Limit: memory; 3 (plain) to 7 (AdamW) tensors.

alias Storage = f32;

override WORKGROUP: u32 = 256;
override SCALED: u32 = 0;

struct Params {
    vectors: u32,  // of 4 elements
    nesterov: u32,
    lr: f32,
    momentum: f32,
    fresh: f32,
    weight_decay: f32,
    keep: f32,
    beta1: f32,
    beta2: f32,
    fresh1: f32,
    fresh2: f32,
    correction1: f32,
    correction2: f32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scale: array<f32>;
@group(0) @binding(2) var<storage, read> gradient: array<vec4<Storage>>;
@group(0) @binding(3) var<storage, read_write> parameter: array<vec4<Storage>>;
@group(0) @binding(4) var<storage, read_write> state0: array<vec4<Storage>>;  // velocity, or first moment
@group(0) @binding(5) var<storage, read_write> state1: array<vec4<Storage>>;  // second moment

fn scale_of_gradients() -> f32 {
    if SCALED == 1u {
        return scale[0];
    }
    return 1.0;
}

@compute @workgroup_size(WORKGROUP)
fn sgd_plain(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * WORKGROUP + local;
    if i >= params.vectors {
        return;
    }
    let g = scale_of_gradients() * vec4<f32>(gradient[i]);
    let old = vec4<f32>(parameter[i]);
    parameter[i] = vec4<Storage>(old - params.lr * (params.weight_decay * old + g));
}

@compute @workgroup_size(WORKGROUP)
fn sgd_momentum(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * WORKGROUP + local;
    if i >= params.vectors {
        return;
    }
    let g = scale_of_gradients() * vec4<f32>(gradient[i]);
    let old = vec4<f32>(parameter[i]);
    let decayed = params.weight_decay * old + g;
    let v = params.momentum * vec4<f32>(state0[i]) + params.fresh * decayed;
    let step = select(v, params.momentum * v + decayed, params.nesterov == 1u);
    state0[i] = vec4<Storage>(v);
    parameter[i] = vec4<Storage>(old - params.lr * step);
}

@compute @workgroup_size(WORKGROUP)
fn adamw(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.y * groups.x + group.x) * WORKGROUP + local;
    if i >= params.vectors {
        return;
    }
    let g = scale_of_gradients() * vec4<f32>(gradient[i]);
    let m = params.beta1 * vec4<f32>(state0[i]) + params.fresh1 * g;
    let v = params.beta2 * vec4<f32>(state1[i]) + params.fresh2 * g * g;
    let step = (m / params.correction1) / (sqrt(v / params.correction2) + params.epsilon);
    state0[i] = vec4<Storage>(m);
    state1[i] = vec4<Storage>(v);
    parameter[i] = vec4<Storage>(params.keep * vec4<f32>(parameter[i]) - params.lr * step);
}
