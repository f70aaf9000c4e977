//! What the wgpu backend does besides computing: memory, limits, errors that come late. Skipped by name where
//! there is no adapter.

use tilegrad::{is_required, open_wgpu, validation_errors, wgpu_backends};
use tilegrad_kernels::wgpu::{Wgpu, WgpuOptions, probe};
use tilegrad_kernels::{
    Activation, Backend, Conv2dArgs, Conv2dOptions, CrossEntropyArgs, Device, Dtype, Error,
    GatherArgs, Pool2dArgs, Rows, SgdArgs, SgdParameter, Unary, download, upload,
};

/// A backend as users have it.
fn opened() -> Option<Wgpu> {
    open_wgpu(WgpuOptions::default())
}

#[test]
fn an_adapter_that_is_not_there_is_one_line() {
    let error = Wgpu::new(Device::Wgpu(99), WgpuOptions::default()).err().expect("99 adapters?");
    let text = error.to_string();
    assert!(text.starts_with("device wgpu:99 is not available: "), "{text}");
    assert!(!text.contains('\n'), "{text}");
    assert_eq!(probe(Device::Cpu), Err("it is no wgpu device".to_string()));
}

/// A step of a small model: enough kernels to be submitted in several batches.
fn step(wgpu: &Wgpu, parameter: &mut tilegrad_kernels::Buffer) -> f32 {
    let len = parameter.len();
    let x = upload(wgpu, &vec![0.5f32; len]).unwrap();
    let mut sum = wgpu.unary_forward(Unary::Relu, &x).unwrap();
    for _ in 0..40 {
        let y = wgpu.unary_forward(Unary::Tanh, &sum).unwrap();
        wgpu.accumulate(&mut sum, &y).unwrap();
    }
    let mut velocity = wgpu.fill(Dtype::F32, len, 0.0).unwrap();
    let update = SgdParameter { parameter, gradient: &sum, velocity: &mut velocity };
    let args =
        SgdArgs { lr: 0.01, momentum: 0.9, dampening: 0.0, weight_decay: 0.0, nesterov: true };
    wgpu.sgd_step(&args, None, &mut [update]).unwrap();
    let norm = wgpu.sum_squares(&sum).unwrap();
    download::<f32>(wgpu, &norm).unwrap()[0]
}

/// Bytes of this process that are in memory.
fn resident() -> Option<usize> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split(' ').nth(1)?.parse::<usize>().ok()? * 4096)
}

#[test]
fn two_hundred_steps_take_no_more_memory_than_ten() {
    let Some(wgpu) = opened() else { return };
    let mut parameter = upload(&wgpu, &[1.0f32; 3000]).unwrap();
    let first: Vec<f32> = (0..10).map(|_| step(&wgpu, &mut parameter)).collect();
    assert!(first.iter().all(|&norm| norm == first[0] && norm > 0.0), "{first:?}");
    let (warm, host) = (wgpu.memory(), resident());
    for _ in 10..200 {
        step(&wgpu, &mut parameter);
    }
    assert_eq!(wgpu.memory(), warm, "a steady state allocates nothing");
    if let (Some(before), Some(after)) = (host, resident()) {
        // Other tests of this process may run beside this one, hence the room.
        assert!(after < before + (48 << 20), "resident: {before} bytes, then {after}");
    }
    wgpu.trim();
    assert_eq!(wgpu.memory().cached, 0);
    step(&wgpu, &mut parameter);
    assert!(wgpu.memory().system_allocations > warm.system_allocations);
}

/// An upload overtakes what is recorded and not submitted: it must not overwrite what that still reads.
#[test]
fn uploads_do_not_overtake_kernels_that_use_the_same_memory() {
    let Some(wgpu) = opened() else { return };
    let mut results = Vec::new();
    for i in 0..20 {
        let x = upload(&wgpu, &[i as f32; 1000]).unwrap();
        results.push(wgpu.unary_forward(Unary::Relu, &x).unwrap());
        // x is dropped here, before its kernel ran: the next upload may get its memory.
    }
    for (i, y) in results.iter().enumerate() {
        assert!(download::<f32>(&wgpu, y).unwrap().iter().all(|&v| v == i as f32), "{i}");
    }
}

#[test]
fn a_large_upload_arrives_whole() {
    let Some(wgpu) = opened() else { return };
    let bytes: Vec<u8> = (0..(20usize << 20) + 3).map(|i| (i * 7 + (i >> 13)) as u8).collect();
    let x = wgpu.upload(Dtype::U8, &bytes).unwrap();
    assert!(wgpu.download(&x).unwrap() == bytes);
    let wide = wgpu.cast(&x, Dtype::I32).unwrap();
    let wide = download::<i32>(&wgpu, &wide).unwrap();
    assert!(wide.iter().zip(&bytes).all(|(&a, &b)| a == i32::from(b)));
}

#[test]
fn a_tensor_that_cannot_be_bound_is_refused_with_the_limit() {
    let Some(wgpu) = opened() else { return };
    let error = wgpu.fill(Dtype::F32, 1 << 40, 0.0).unwrap_err().to_string();
    assert!(error.contains("4398046511104 bytes"), "{error}");
    assert!(error.contains("max_storage_buffer_binding_size"), "{error}");
    let error = wgpu.fill(Dtype::F32, usize::MAX / 2, 0.0).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    // The backend still works.
    assert_eq!(download::<f32>(&wgpu, &wgpu.fill(Dtype::F32, 2, 3.0).unwrap()).unwrap(), [3.0; 2]);
}

#[test]
fn bad_indices_are_reported_at_the_next_wait() {
    let Some(wgpu) = opened() else { return };
    let logits = upload(&wgpu, &[0.0f32; 12]).unwrap();
    let labels = upload(&wgpu, &[1i32, 4, -1]).unwrap();
    let args = CrossEntropyArgs { rows: Rows { count: 3, len: 4 }, smoothing: 0.0 };
    let (loss, _) = wgpu.cross_entropy_forward(&args, &logits, &labels).unwrap();
    let error = download::<f32>(&wgpu, &loss).unwrap_err();
    assert_eq!(error.to_string(), "cross_entropy: index 4 at position 1 is outside 0..4");
    let loss = download::<f32>(&wgpu, &loss).unwrap();
    assert!(loss[0] > 0.0 && loss[1].is_nan() && loss[2].is_nan(), "{loss:?}");
    let args = GatherArgs::new(&[4, 3], 0, 2).unwrap();
    let indices = upload(&wgpu, &[0i32, -7]).unwrap();
    wgpu.gather_forward(&args, &logits, &indices).unwrap();
    let error = wgpu.synchronize().unwrap_err();
    assert_eq!(error.to_string(), "gather: index -7 at position 1 is outside 0..4");
    wgpu.synchronize().unwrap();
}

#[test]
fn what_the_adapter_cannot_store_is_unsupported() {
    let Some(wgpu) = opened() else { return };
    let x = wgpu.upload(Dtype::BF16, &[0; 8]).unwrap();
    let error = wgpu.unary_forward(Unary::Exp, &x).unwrap_err();
    assert_eq!(error.to_string(), "exp: not supported on wgpu for bf16");
    let error = wgpu.upload(Dtype::F64, &[0; 8]).unwrap_err();
    assert_eq!(error.to_string(), "upload: not supported on wgpu for f64");
    let other = opened().expect("opened before");
    let error = other.unary_forward(Unary::Exp, &upload(&wgpu, &[1.0f32]).unwrap()).unwrap_err();
    assert!(error.to_string().contains("belongs to another backend"), "{error}");
}

/// Every pair of dtypes that casts, on numbers at the edges of their rounding, against the CPU.
#[test]
fn casts_have_the_bits_of_the_cpu() {
    let Some(wgpu) = opened() else { return };
    let cpu = tilegrad_kernels::reference::Reference::new();
    let mut values: Vec<f32> =
        (0..4000).map(|i| f32::from_bits(0x3300_0000 + i * 0x3_4567)).collect();
    values.extend(values.clone().iter().map(|v| -v));
    values.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 65519.0, 65520.0, 2.9802322e-8]);
    values.extend([2.9802326e-8, 6.1e-5, 6.0975e-5, 0.5, 1.5, 2.5, -0.5, 3e9, -3e9, 127.5, 255.5]);
    let floats = upload(&wgpu, &values).unwrap();
    let expected = upload(&cpu, &values).unwrap();
    let integers: Vec<i32> = (0..3000).map(|i| i32::wrapping_mul(i, 1431655) ^ (i << 20)).collect();
    let all = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I32, Dtype::I8, Dtype::U8];
    for from in all {
        let pairs = [
            (wgpu.cast(&floats, from).unwrap(), cpu.cast(&expected, from).unwrap()),
            (
                wgpu.cast(&upload(&wgpu, &integers).unwrap(), from).unwrap(),
                cpu.cast(&upload(&cpu, &integers).unwrap(), from).unwrap(),
            ),
        ];
        for (got, expected) in pairs {
            for to in all {
                let got = wgpu.download(&wgpu.cast(&got, to).unwrap()).unwrap();
                let expected = cpu.download(&cpu.cast(&expected, to).unwrap()).unwrap();
                let first = got.iter().zip(&expected).position(|(a, b)| a != b);
                assert_eq!(first.map(|i| i / to.size()), None, "{from} to {to}");
            }
        }
    }
}

/// Images without pixels, which their padding makes large enough: every tap is outside.
#[test]
fn convolution_of_nothing_is_its_bias() {
    let Some(wgpu) = opened() else { return };
    for c_in in [68, 67] {
        let options = Conv2dOptions { padding: [2, 2], ..Default::default() };
        let args = Conv2dArgs::new(&[1, 0, 3, c_in], &[4, 3, 3, c_in], options).unwrap();
        let x = upload(&wgpu, &[0.0f32; 0]).unwrap();
        let filter = upload(&wgpu, &vec![1.0f32; args.filter_elements()]).unwrap();
        let bias = upload(&wgpu, &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let y = wgpu.conv2d_forward(&args, Activation::Identity, &x, &filter, Some(&bias)).unwrap();
        let y = download::<f32>(&wgpu, &y).unwrap();
        assert!(!y.is_empty() && y.chunks(4).all(|c| c == [1.0, 2.0, 3.0, 4.0]), "{y:?}");
        let dy = upload(&wgpu, &y).unwrap();
        let dfilter = wgpu.conv2d_backward_filter(&args, &x, &dy).unwrap();
        assert!(download::<f32>(&wgpu, &dfilter).unwrap().iter().all(|&v| v == 0.0));
    }
}

/// Sizes beyond 32 bits are an error.
#[test]
fn sizes_that_shaders_cannot_count_are_an_error() {
    let Some(wgpu) = opened() else { return };
    let far = 1 << 40;
    let args = Pool2dArgs::new("avg_pool2d", &[1, 2, 2, 1], [2, 2], [far, far], [0, 0]).unwrap();
    let x = upload(&wgpu, &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
    let error = wgpu.avg_pool2d_forward(&args, &x).unwrap_err().to_string();
    assert!(error.contains("2^32"), "{error}");
}

#[test]
fn the_devices_clock_times_each_kernel() {
    let Some(wgpu) = opened() else { return };
    assert_eq!(wgpu.stop_kernel_times().unwrap(), [], "no clock was running");
    let mut parameter = upload(&wgpu, &[1.0f32; 3000]).unwrap();
    let norm = step(&wgpu, &mut parameter);
    if !wgpu.start_kernel_times().unwrap() {
        eprintln!("SKIPPED wgpu: the adapter has no timestamps");
        return;
    }
    let clock = std::time::Instant::now();
    assert_eq!(step(&wgpu, &mut parameter), norm, "timing changes no result");
    let times = wgpu.stop_kernel_times().unwrap();
    let (all, sum) = (clock.elapsed().as_secs_f64(), times.iter().map(|t| t.seconds).sum::<f64>());
    assert!(0.0 < sum && sum <= all, "{sum} s of {all} s: {times:?}");
    let calls = |name: &str| times.iter().find(|t| t.kernel == name).map_or(0, |t| t.calls);
    // More than a submission takes: none is lost between two.
    assert_eq!(calls("unary_forward"), 41, "{times:?}");
    assert_eq!(calls("accumulate"), 40, "{times:?}");
    step(&wgpu, &mut parameter);
    assert_eq!(wgpu.stop_kernel_times().unwrap(), [], "it was stopped");
}

#[test]
fn the_validation_layer_is_heard() {
    let Some(on) = wgpu_backends().first() else { return };
    let y = on.backend.fill(Dtype::F32, 8, 1.0).unwrap();
    assert_eq!(on.backend.download(&y).unwrap().len(), 32);
    // An instance that asks for a layer that is not installed comes without it, and without an error.
    if let Ok(maps) = std::fs::read_to_string("/proc/self/maps") {
        let is_there = maps.contains("VkLayer_khronos_validation");
        assert!(
            is_there || !is_required("wgpu"),
            "install Vulkan's validation layer: docs/wgpu.md"
        );
    }
    assert_eq!(validation_errors(), [""; 0]);
    log::error!(target: "wgpu_hal::test", "heard");
    assert_eq!(validation_errors(), ["wgpu_hal::test: heard"]);
}
