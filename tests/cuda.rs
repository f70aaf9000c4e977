//! What the CUDA backend does besides computing: loading, memory, errors that come late. On the GPU
//! where there is one, or else on softcuda (`TILEGRAD_REQUIRE` chooses); skipped by name where neither is.

use tilegrad::open_cuda;
use tilegrad_kernels::cuda::{Cuda, CudaOptions};
use tilegrad_kernels::reference::Reference;
use tilegrad_kernels::{
    Backend, Binary, BroadcastArgs, Buffer, CrossEntropyArgs, Device, Dtype, Error, GatherArgs,
    PermuteArgs, Unary, download, upload,
};

/// A backend as users have it: with a pool.
fn pooled() -> Option<Cuda> {
    open_cuda(CudaOptions::default())
}

#[test]
fn every_kernel_loads() {
    let Some(cuda) = pooled() else { return };
    let kernels = cuda.load_all_kernels().unwrap();
    assert!(kernels > 300, "{kernels}");
}

#[test]
fn memory_is_given_out_again_and_can_be_given_back() {
    let Some(cuda) = pooled() else { return };
    let steps = |cuda: &Cuda| {
        for _ in 0..3 {
            let x = upload(cuda, &[1.0f32; 3000]).unwrap();
            let y = cuda.unary_forward(Unary::Relu, &x).unwrap();
            let sum = cuda.sum_squares(&y).unwrap();
            assert_eq!(download::<f32>(cuda, &sum).unwrap(), [3000.0]);
        }
    };
    steps(&cuda);
    let warm = cuda.memory();
    assert_eq!(warm.in_use, 0, "all buffers are gone");
    assert!(warm.cached >= 2 * 12000 && warm.peak >= 2 * 12000, "{warm:?}");
    steps(&cuda);
    assert_eq!(cuda.memory(), warm, "a steady state allocates nothing");
    cuda.trim();
    assert_eq!(cuda.memory().cached, 0);
    steps(&cuda);
    assert!(cuda.memory().system_allocations > warm.system_allocations);
    cuda.reset_peak();
    assert_eq!(cuda.memory().peak, 0);
}

/// Larger than all pinned slots together: the slots are used more than once, in flight.
#[test]
fn a_large_upload_arrives_whole() {
    let Some(cuda) = pooled() else { return };
    let bytes: Vec<u8> = (0..(40usize << 20) + 3).map(|i| (i * 7 + (i >> 13)) as u8).collect();
    let x = cuda.upload(Dtype::U8, &bytes).unwrap();
    assert!(cuda.download(&x).unwrap() == bytes);
}

#[test]
fn a_shared_buffer_is_copied_before_it_changes() {
    let Some(cuda) = pooled() else { return };
    let mut sum = upload(&cuda, &[1.0f32, 2.0, 3.0]).unwrap();
    let old = sum.clone();
    let x = upload(&cuda, &[10.0f32; 3]).unwrap();
    cuda.accumulate(&mut sum, &x).unwrap();
    assert_eq!(download::<f32>(&cuda, &sum).unwrap(), [11.0, 12.0, 13.0]);
    assert_eq!(download::<f32>(&cuda, &old).unwrap(), [1.0, 2.0, 3.0]);
}

/// Also those that no op of the engine computes in.
#[test]
fn every_dtype_is_filled_converted_and_moved() {
    let Some(cuda) = pooled() else { return };
    let reference = Reference::new();
    let values = [0.0, 0.5, 1.5, 2.5, -0.5, -2.5, 7.0, 127.0, 128.0, 255.0, 300.0, -129.0, 65504.0];
    let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e-7, 3e9, -3e9, 1e300, -1e300];
    let values: Vec<f64> = values.into_iter().chain(special).collect();
    let all = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I32, Dtype::I8, Dtype::U8];
    let run = |be: &dyn Backend, from: Dtype, to: Dtype| {
        let x = be.cast(&upload(be, &values).unwrap(), from).unwrap();
        be.download(&be.cast(&x, to).unwrap()).unwrap()
    };
    for from in all {
        for to in all {
            let (ours, expected) = (run(&cuda, from, to), run(&reference, from, to));
            // One NaN is as good as another.
            let as_f64 = |bytes: &[u8]| {
                let x = reference.upload(to, bytes).unwrap();
                let x = reference.cast(&x, Dtype::F64).unwrap();
                download::<f64>(&reference, &x)
                    .unwrap()
                    .into_iter()
                    .map(|v| if v.is_nan() { f64::NAN.to_bits() } else { v.to_bits() })
            };
            let (ours, expected) = (as_f64(&ours), as_f64(&expected));
            assert!(ours.eq(expected), "from {from} to {to}");
        }
        let filled = |be: &dyn Backend| be.download(&be.fill(from, 11, -3.0).unwrap()).unwrap();
        assert_eq!(filled(&cuda), filled(&reference), "fill {from}");
        if from == Dtype::F64 {
            continue; // which is not moved
        }
        // The reference moves the same values as f64.
        let moved = |be: &dyn Backend, x: &Buffer| {
            let x = be.permute(&PermuteArgs::new(&[3, 4], &[1, 0]).unwrap(), x).unwrap();
            let indices = upload(be, &[3i32, 0, 3]).unwrap();
            let args = GatherArgs::new(&[4, 3], 0, 3).unwrap();
            be.download(&be.gather_forward(&args, &x, &indices).unwrap()).unwrap()
        };
        let x = cuda.cast(&upload(&cuda, &values[..12]).unwrap(), from).unwrap();
        let wide = upload(&reference, &values[..12]).unwrap();
        let wide = reference.cast(&reference.cast(&wide, from).unwrap(), Dtype::F64).unwrap();
        let ours = reference.upload(from, &moved(&cuda, &x)).unwrap();
        let ours = reference.download(&reference.cast(&ours, Dtype::F64).unwrap()).unwrap();
        assert_eq!(ours, moved(&reference, &wide), "{from}");
    }
}

/// The engine subtracts by adding what it has negated, so only a caller of the backend gets here.
#[test]
fn a_difference_has_gradients() {
    let (Some(cuda), reference) = (pooled(), Reference::new()) else { return };
    let (small, large): (Vec<f32>, Vec<f32>) =
        ((0..6).map(|i| i as f32 - 2.0).collect(), (0..24).map(|i| i as f32 / 8.0 - 1.0).collect());
    for shape in [[4, 6], [1, 6]] {
        let args = BroadcastArgs::new("sub", &[4, 6], &shape).unwrap();
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let run = |be: &dyn Backend, dtype: Dtype| {
                let cast = |x: &[f32]| be.cast(&upload(be, x).unwrap(), dtype).unwrap();
                let b = if shape[0] == 4 { &large } else { &small };
                let (a, b, dy) = (cast(&large), cast(b), cast(&large));
                let [da, db] =
                    be.binary_backward(Binary::Sub, &args, &a, &b, &dy, [true; 2]).unwrap();
                [da, db].map(|d| {
                    let d = be.cast(&d.expect("needed"), Dtype::F32).unwrap();
                    download::<f32>(be, &d).unwrap()
                })
            };
            assert_eq!(run(&cuda, dtype), run(&reference, Dtype::F32), "{dtype} {shape:?}");
        }
    }
}

/// The call that meets a bad index does not wait for the device; the next one that waits reports it, once.
#[test]
fn bad_indices_are_reported_when_the_host_next_waits() {
    let Some(cuda) = pooled() else { return };
    let logits = upload(&cuda, &[0.0f32; 8 * 3]).unwrap();
    let labels = upload(&cuda, &[0i32, 1, 2, 5, 0, -4, 9, 2]).unwrap();
    let args = CrossEntropyArgs::new(&[8, 3], &[8], 0.0).unwrap();
    let (loss, lse) = cuda.cross_entropy_forward(&args, &logits, &labels).unwrap();
    let error = cuda.synchronize().unwrap_err();
    let expected = Error::Index { op: "cross_entropy", index: 5, position: 3, bound: 3 };
    assert_eq!(error, expected);
    cuda.synchronize().unwrap();
    let loss = download::<f32>(&cuda, &loss).unwrap();
    let bad: Vec<usize> = (0..8).filter(|&i| loss[i].is_nan()).collect();
    assert_eq!(bad, [3, 5, 6], "{loss:?}");
    drop(lse);

    let args = GatherArgs::new(&[3, 2], 0, 3).unwrap();
    let x = upload(&cuda, &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let indices = upload(&cuda, &[2i32, i32::MIN, 1]).unwrap();
    let y = cuda.gather_forward(&args, &x, &indices).unwrap();
    let error = cuda.download(&y).unwrap_err();
    let index = i64::from(i32::MIN);
    assert_eq!(error, Error::Index { op: "gather", index, position: 1, bound: 3 });
    assert_eq!(download::<f32>(&cuda, &y).unwrap(), [5.0, 6.0, 0.0, 0.0, 3.0, 4.0]);
}

#[test]
fn more_memory_than_there_is_is_an_error_with_its_size() {
    let Some(cuda) = pooled() else { return };
    let error = cuda.fill(Dtype::F32, usize::MAX / 16, 0.0).unwrap_err();
    assert!(
        matches!(error, Error::OutOfMemory { requested, .. } if requested > 1 << 59),
        "{error}"
    );
    let x = upload(&cuda, &[1.0f32]).unwrap();
    assert_eq!(download::<f32>(&cuda, &x).unwrap(), [1.0], "and the device goes on");
}

#[test]
fn buffers_of_another_backend_of_the_same_device_are_refused() {
    let (Some(cuda), Some(other)) = (pooled(), pooled()) else { return };
    let x = upload(&other, &[1.0f32]).unwrap();
    let error = cuda.unary_forward(Unary::Exp, &x).unwrap_err();
    assert!(matches!(error, Error::Argument { op: "exp", .. }), "{error}");
}

#[test]
fn one_process_has_one_driver() {
    let Some(cuda) = pooled() else { return };
    let other = if cuda.device() == Device::SoftCuda { Device::Cuda(0) } else { Device::SoftCuda };
    let error = Cuda::new(other, CudaOptions::default()).err().expect("there is only one libcuda");
    assert!(matches!(error, Error::Unavailable { device, .. } if device == other), "{error}");
}
