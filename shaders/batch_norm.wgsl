// Batch normalisation.  x, y, dy, dx, residual, dresidual: [rows, c]; all else a value a channel, f32.
//
//   y = activation(gamma (x - mean) / sqrt(var + epsilon) + beta + residual)
//
// Forward reads x twice and backward reads its inputs twice, which is the least that can be done, since every result of
// the second pass depends on sums over all rows:
//
//   batch_norm_statistics[_any]       pass 1: Σ d and Σ d² with d = x - shift, for a strip of rows each
//   batch_norm_combine_statistics     the strips' sums to mean and var
//   batch_norm_apply[_any]            pass 2: y
//   batch_norm_gradient_sums[_any]    pass 1: Σ g and Σ g (x - mean) for a strip of rows each; dresidual = g
//   batch_norm_combine_gradients      the strips' sums to dbeta and dgamma
//   batch_norm_dx[_any]               pass 2: dx
//   batch_norm_update_running         running statistics
//
// g is dy where y is positive, everywhere without an activation. A thread keeps 4 neighbouring channels, or one
// (`_any`) where c is no multiple of 4, and walks down a strip: every `strips`-th row, so that neighbouring threads
// read neighbours in memory and values a channel are read once. It leaves its sums in `partials`; one thread a channel
// then adds those up in order. So there is no barrier, and the same bits on every run.
//
// Limit: memory, 3 (forward) and 5 (backward, no residual, no activation) transfers of the tensor.

alias Storage = f32;

override WORKGROUP: u32 = 64;

struct Params {
    rows: u32,
    c: u32,
    strips: u32,
    relu: u32,
    has_residual: u32,  // or its gradient is wanted
    training: u32,
    epsilon: f32,
    keep: f32,  // of the running statistics
    take: f32,  // of the batch's
    unbiased: f32,  // rows / (rows - 1)
}

// The numbers of bindings are those of the launchers; an entry point uses each number once at most.
@group(0) @binding(0) var<uniform> params: Params;

fn thread_index(group: vec3<u32>, groups: vec3<u32>, local: u32) -> u32 {
    return (group.y * groups.x + group.x) * WORKGROUP + local;
}

// Rows of a strip: `strip`, `strip + strips`, ..
fn rows_of(strip: u32) -> u32 {
    return (params.rows - strip + params.strips - 1u) / params.strips;
}

// --- Statistics ------------------------------------------------------------

@group(0) @binding(1) var<storage, read> x: array<Storage>;
@group(0) @binding(1) var<storage, read> x4: array<vec4<Storage>>;
@group(0) @binding(2) var<storage, read_write> partials: array<f32>;  // [strips, 3, c]: Σ d, Σ d², shift
@group(0) @binding(2) var<storage, read_write> partials4: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn batch_norm_statistics(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    let index = thread_index(group, groups, local);
    let c = params.c / 4u;
    let strip = index / c;
    let channel = index - strip * c;
    if (strip >= params.strips) {
        return;
    }
    // The strip's first row: squares of what is left do not cancel where the mean is large against the deviation.
    let shift = vec4<f32>(x4[index]);
    var sum = vec4<f32>(0.0);
    var squares = vec4<f32>(0.0);
    for (var row = strip; row < params.rows; row += params.strips) {
        let d = vec4<f32>(x4[row * c + channel]) - shift;
        sum += d;
        squares += d * d;
    }
    let at = strip * 3u * c + channel;
    partials4[at] = sum;
    partials4[at + c] = squares;
    partials4[at + 2u * c] = shift;
}

@compute @workgroup_size(WORKGROUP)
fn batch_norm_statistics_any(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    let index = thread_index(group, groups, local);
    let c = params.c;
    let strip = index / c;
    let channel = index - strip * c;
    if (strip >= params.strips) {
        return;
    }
    // The strip's first row: squares of what is left do not cancel where the mean is large against the deviation.
    let shift = f32(x[index]);
    var sum = f32(0.0);
    var squares = f32(0.0);
    for (var row = strip; row < params.rows; row += params.strips) {
        let d = f32(x[row * c + channel]) - shift;
        sum += d;
        squares += d * d;
    }
    let at = strip * 3u * c + channel;
    partials[at] = sum;
    partials[at + c] = squares;
    partials[at + 2u * c] = shift;
}

@group(0) @binding(1) var<storage, read> sums: array<f32>;  // `partials`
@group(0) @binding(2) var<storage, read_write> mean_out: array<f32>;
@group(0) @binding(3) var<storage, read_write> var_out: array<f32>;

// Strip t of n_t rows with mean m_t contributes Σ d² - (Σ d)² / n_t + n_t (m_t - mean)² to Σ (x - mean)² (Chan, Golub
// and LeVeque 1983). Means are kept as distances from the first strip's shift, which are small.
@compute @workgroup_size(WORKGROUP)
fn batch_norm_combine_statistics(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                                 @builtin(local_invocation_index) local: u32) {
    let channel = thread_index(group, groups, local);
    let c = params.c;
    if (channel >= c) {
        return;
    }
    let origin = sums[2u * c + channel];
    var total = 0.0;
    for (var strip = 0u; strip < params.strips; strip++) {
        let at = strip * 3u * c + channel;
        total += sums[at] + f32(rows_of(strip)) * (sums[at + 2u * c] - origin);
    }
    let mean = total / f32(params.rows);
    var squares = 0.0;
    for (var strip = 0u; strip < params.strips; strip++) {
        let at = strip * 3u * c + channel;
        let rows = f32(rows_of(strip));
        let first = sums[at];
        let own = sums[at + c] - first * first / rows;
        let off = (sums[at + 2u * c] - origin) + first / rows - mean;
        // Rounding must not make it negative; NaN stays.
        squares += select(own, 0.0, own < 0.0) + rows * off * off;
    }
    mean_out[channel] = origin + mean;
    var_out[channel] = squares / f32(params.rows);
}

// --- y ------------------------------------------------------------

@group(0) @binding(2) var<storage, read> gamma: array<f32>;
@group(0) @binding(2) var<storage, read> gamma4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
@group(0) @binding(3) var<storage, read> beta4: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> mean: array<f32>;
@group(0) @binding(4) var<storage, read> mean4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> variance: array<f32>;
@group(0) @binding(5) var<storage, read> variance4: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> residual: array<Storage>;
@group(0) @binding(6) var<storage, read> residual4: array<vec4<Storage>>;
@group(0) @binding(7) var<storage, read_write> y: array<Storage>;
@group(0) @binding(7) var<storage, read_write> y4: array<vec4<Storage>>;

// max(v, 0), NaN for NaN: by its bits, since compilers may assume that there is none.
fn activation4(v: vec4<f32>) -> vec4<f32> {
    let is_nan = (bitcast<vec4<u32>>(v) & vec4<u32>(0x7FFFFFFFu)) > vec4<u32>(0x7F800000u);
    let stays = (v > vec4<f32>(0.0)) | is_nan | vec4<bool>(params.relu == 0u);
    return select(vec4<f32>(0.0), v, stays);
}

fn activation(v: f32) -> f32 {
    return activation4(vec4<f32>(v)).x;
}

@compute @workgroup_size(WORKGROUP)
fn batch_norm_apply(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    let index = thread_index(group, groups, local);
    let c = params.c / 4u;
    let strip = index / c;
    let channel = index - strip * c;
    if (strip >= params.strips) {
        return;
    }
    let centre = mean4[channel];
    let scale = gamma4[channel] / sqrt(variance4[channel] + params.epsilon);
    let shift = beta4[channel];
    for (var row = strip; row < params.rows; row += params.strips) {
        let at = row * c + channel;
        var v = (vec4<f32>(x4[at]) - centre) * scale + shift;
        if (params.has_residual != 0u) {
            v += vec4<f32>(residual4[at]);
        }
        y4[at] = vec4<Storage>(activation4(v));
    }
}

@compute @workgroup_size(WORKGROUP)
fn batch_norm_apply_any(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    let index = thread_index(group, groups, local);
    let c = params.c;
    let strip = index / c;
    let channel = index - strip * c;
    if (strip >= params.strips) {
        return;
    }
    let centre = mean[channel];
    let scale = gamma[channel] / sqrt(variance[channel] + params.epsilon);
    let shift = beta[channel];
    for (var row = strip; row < params.rows; row += params.strips) {
        let at = row * c + channel;
        var v = (f32(x[at]) - centre) * scale + shift;
        if (params.has_residual != 0u) {
            v += f32(residual[at]);
        }
        y[at] = Storage(activation(v));
    }
}

// --- Gradients ------------------------------------------------------------

@group(0) @binding(2) var<storage, read> out: array<Storage>;  // y
@group(0) @binding(2) var<storage, read> out4: array<vec4<Storage>>;
@group(0) @binding(3) var<storage, read> dy: array<Storage>;
@group(0) @binding(3) var<storage, read> dy4: array<vec4<Storage>>;
@group(0) @binding(5) var<storage, read_write> dresidual: array<Storage>;
@group(0) @binding(5) var<storage, read_write> dresidual4: array<vec4<Storage>>;
@group(0) @binding(6) var<storage, read_write> gradients: array<f32>;  // [strips, 2, c]: Σ g, Σ g (x - mean)
@group(0) @binding(6) var<storage, read_write> gradients4: array<vec4<f32>>;

// The gradient before the activation.
fn before_activation4(at: u32) -> vec4<f32> {
    var g = vec4<f32>(dy4[at]);
    if (params.relu != 0u) {
        g = select(g, vec4<f32>(0.0), vec4<f32>(out4[at]) <= vec4<f32>(0.0));
    }
    return g;
}

fn before_activation(at: u32) -> f32 {
    var g = f32(dy[at]);
    if (params.relu != 0u) {
        g = select(g, 0.0, f32(out[at]) <= 0.0);
    }
    return g;
}

@compute @workgroup_size(WORKGROUP)
fn batch_norm_gradient_sums(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    let index = thread_index(group, groups, local);
    let c = params.c / 4u;
    let strip = index / c;
    let channel = index - strip * c;
    if (strip >= params.strips) {
        return;
    }
    let centre = mean4[channel];
    var sum = vec4<f32>(0.0);
    var product = vec4<f32>(0.0);
    for (var row = strip; row < params.rows; row += params.strips) {
        let at = row * c + channel;
        let g = before_activation4(at);
        if (params.has_residual != 0u) {
            dresidual4[at] = vec4<Storage>(g);
        }
        sum += g;
        product += g * (vec4<f32>(x4[at]) - centre);
    }
    let at = strip * 2u * c + channel;
    gradients4[at] = sum;
    gradients4[at + c] = product;
}

@compute @workgroup_size(WORKGROUP)
fn batch_norm_gradient_sums_any(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    let index = thread_index(group, groups, local);
    let c = params.c;
    let strip = index / c;
    let channel = index - strip * c;
    if (strip >= params.strips) {
        return;
    }
    let centre = mean[channel];
    var sum = f32(0.0);
    var product = f32(0.0);
    for (var row = strip; row < params.rows; row += params.strips) {
        let at = row * c + channel;
        let g = before_activation(at);
        if (params.has_residual != 0u) {
            dresidual[at] = Storage(g);
        }
        sum += g;
        product += g * (f32(x[at]) - centre);
    }
    let at = strip * 2u * c + channel;
    gradients[at] = sum;
    gradients[at + c] = product;
}

// The strips' sums again: `gradients`.
@group(0) @binding(3) var<storage, read> variance_in: array<f32>;
@group(0) @binding(4) var<storage, read_write> dgamma: array<f32>;
@group(0) @binding(5) var<storage, read_write> dbeta: array<f32>;
@group(0) @binding(6) var<storage, read_write> coefficients: array<f32>;  // [3, c], see batch_norm_dx

// dbeta = Σ g, dgamma = Σ g (x - mean) / sqrt(var + epsilon), and what dx needs of them.
@compute @workgroup_size(WORKGROUP)
fn batch_norm_combine_gradients(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                                @builtin(local_invocation_index) local: u32) {
    let channel = thread_index(group, groups, local);
    let c = params.c;
    if (channel >= c) {
        return;
    }
    var sum = 0.0;
    var product = 0.0;
    for (var strip = 0u; strip < params.strips; strip++) {
        sum += sums[strip * 2u * c + channel];
        product += sums[(strip * 2u + 1u) * c + channel];
    }
    let inverse = 1.0 / sqrt(variance_in[channel] + params.epsilon);
    let of_gamma = product * inverse;
    let slope = gamma[channel] * inverse;
    dgamma[channel] = of_gamma;
    dbeta[channel] = sum;
    coefficients[channel] = slope;
    coefficients[c + channel] = -slope * inverse * (of_gamma / f32(params.rows));
    coefficients[2u * c + channel] = -slope * (sum / f32(params.rows));
}

@group(0) @binding(5) var<storage, read> coefficients_in: array<f32>;
@group(0) @binding(5) var<storage, read> coefficients_in4: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> dx: array<Storage>;
@group(0) @binding(6) var<storage, read_write> dx4: array<vec4<Storage>>;

// dx = gamma / σ (g - (dbeta + x̂ dgamma) / rows), as slope g + scale (x - mean) + shift; with given statistics, the
// first term alone.
@compute @workgroup_size(WORKGROUP)
fn batch_norm_dx(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    let index = thread_index(group, groups, local);
    let c = params.c / 4u;
    let strip = index / c;
    let channel = index - strip * c;
    if (strip >= params.strips) {
        return;
    }
    let centre = mean4[channel];
    let slope = coefficients_in4[channel];
    let scale = coefficients_in4[c + channel];
    let shift = coefficients_in4[2u * c + channel];
    for (var row = strip; row < params.rows; row += params.strips) {
        let at = row * c + channel;
        var v = slope * before_activation4(at);
        if (params.training != 0u) {
            v += scale * (vec4<f32>(x4[at]) - centre) + shift;
        }
        dx4[at] = vec4<Storage>(v);
    }
}

@compute @workgroup_size(WORKGROUP)
fn batch_norm_dx_any(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
    let index = thread_index(group, groups, local);
    let c = params.c;
    let strip = index / c;
    let channel = index - strip * c;
    if (strip >= params.strips) {
        return;
    }
    let centre = mean[channel];
    let slope = coefficients_in[channel];
    let scale = coefficients_in[c + channel];
    let shift = coefficients_in[2u * c + channel];
    for (var row = strip; row < params.rows; row += params.strips) {
        let at = row * c + channel;
        var v = slope * before_activation(at);
        if (params.training != 0u) {
            v += scale * (f32(x[at]) - centre) + shift;
        }
        dx[at] = Storage(v);
    }
}

// --- Running statistics ------------------------------------------------------------

@group(0) @binding(1) var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(2) var<storage, read_write> running_var: array<f32>;
@group(0) @binding(3) var<storage, read> batch_mean: array<f32>;
@group(0) @binding(4) var<storage, read> batch_var: array<f32>;

// running = keep running + take batch, the variance times `unbiased`.
@compute @workgroup_size(WORKGROUP)
fn batch_norm_update_running(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
                             @builtin(local_invocation_index) local: u32) {
    let channel = thread_index(group, groups, local);
    if (channel >= params.c) {
        return;
    }
    running_mean[channel] = params.keep * running_mean[channel] + params.take * batch_mean[channel];
    running_var[channel] = params.keep * running_var[channel] + params.take * (params.unbiased * batch_var[channel]);
}
