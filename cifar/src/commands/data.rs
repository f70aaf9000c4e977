//! `cifar data`: makes data sets and shows them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueEnum};

use crate::config::SYNTHETIC_LIMIT;
use crate::data::download::{Archive, download};
use crate::data::import::{ImportOptions, import};
use crate::data::{Dataset, Split, binary, picture, synthetic};
use crate::outln;

/// What to do with data.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Turn a folder or tar of images in class folders into a data set.
    Import(ImportArgs),
    /// Fetch CIFAR-10 or CIFAR-100.
    Download(DownloadArgs),
    /// Write the synthetic data set that training uses when it is given no data.
    Synthetic(SyntheticArgs),
    /// Count a data set's images, and draw a picture of samples.
    Show(ShowArgs),
}

/// Arguments of `cifar data import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Folder or tar (plain, .gz, .xz) with train/CLASS/*.jpg and test/CLASS/*.jpg, or
    /// CLASS/*.jpg; PNG works too.
    source: PathBuf,
    /// Directory to make.
    #[arg(long)]
    out: PathBuf,
    /// Width and height of the images made; others are cut square and resized.
    #[arg(long, default_value_t = 32)]
    size: usize,
    /// Part of each class to hold out for the test, at least one image, if there is no test folder
    /// [default: 0.2].
    #[arg(long)]
    test_fraction: Option<f64>,
    /// Leave out images that cannot be read.
    #[arg(long)]
    skip_bad: bool,
    /// Decides the order of the images, and which are held out.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Replace a data set that is at --out already.
    #[arg(long)]
    replace: bool,
}

/// Which official data set.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Official {
    /// 60,000 images in 10 classes.
    Cifar10,
    /// 60,000 images in 100 classes.
    Cifar100,
}

/// Arguments of `cifar data download`.
#[derive(Debug, Args)]
pub struct DownloadArgs {
    /// Which data set.
    set: Official,
    /// Directory to put its folder into.
    #[arg(long)]
    out: PathBuf,
    /// Another place to fetch the same archive from.
    #[arg(long)]
    url: Option<String>,
}

/// Arguments of `cifar data synthetic`.
#[derive(Debug, Args)]
pub struct SyntheticArgs {
    /// Directory to make.
    #[arg(long)]
    out: PathBuf,
    /// Training images.
    #[arg(long, default_value_t = synthetic::TRAIN_IMAGES)]
    train: usize,
    /// Test images.
    #[arg(long, default_value_t = synthetic::TEST_IMAGES)]
    test: usize,
    /// Another seed draws other images.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Replace a data set that is at --out already.
    #[arg(long)]
    replace: bool,
}

/// Arguments of `cifar data show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A data set's directory.
    dir: PathBuf,
    /// Picture to write: samples of each class, and the class counts as bars.
    #[arg(long, default_value = "grid.png")]
    out: PathBuf,
    /// Samples of each class.
    #[arg(long, default_value_t = 10)]
    samples: usize,
}

/// Runs a `cifar data` command.
pub fn run(command: DataCommand) -> Result<()> {
    match command {
        DataCommand::Import(args) => run_import(&args),
        DataCommand::Download(args) => run_download(&args),
        DataCommand::Synthetic(args) => run_synthetic(&args),
        DataCommand::Show(args) => run_show(&args),
    }
}

fn run_import(args: &ImportArgs) -> Result<()> {
    binary::check_output(&args.out, args.replace)?;
    let options = ImportOptions {
        size: args.size,
        test_fraction: args.test_fraction,
        skip_bad: args.skip_bad,
        seed: args.seed,
    };
    let imported = import(&args.source, &options)?;
    for skipped in &imported.skipped {
        eprintln!("skipped {skipped}");
    }
    if imported.others > 0 {
        eprintln!("{} files are neither JPEG nor PNG: passed over", imported.others);
    }
    binary::save(&args.out, &imported.train, &imported.test, args.replace)?;
    report(&args.out, &imported.train, &imported.test)
}

fn run_download(args: &DownloadArgs) -> Result<()> {
    let mut archive = match args.set {
        Official::Cifar10 => Archive::cifar10(),
        Official::Cifar100 => Archive::cifar100(),
    };
    if let Some(url) = &args.url {
        archive.url = url.clone();
    }
    let folder = download(&archive, &args.out)?;
    outln!("{0}: ready; use it with --data {0}", folder.display())?;
    Ok(())
}

fn run_synthetic(args: &SyntheticArgs) -> Result<()> {
    ensure!(
        [args.train, args.test].iter().all(|n| (1..=SYNTHETIC_LIMIT).contains(n)),
        "--train and --test must be 1 to {SYNTHETIC_LIMIT}, got {} and {}",
        args.train,
        args.test
    );
    binary::check_output(&args.out, args.replace)?;
    let (train, test) = synthetic::generate(args.train, args.test, args.seed);
    binary::save(&args.out, &train, &test, args.replace)?;
    report(&args.out, &train, &test)
}

fn report(out: &Path, train: &Dataset, test: &Dataset) -> Result<()> {
    outln!(
        "{}: {} training and {} test images, {}x{}, {} classes; use it with --data {}",
        out.display(),
        train.len(),
        test.len(),
        train.size,
        train.size,
        train.classes.len(),
        out.display()
    )?;
    Ok(())
}

fn run_show(args: &ShowArgs) -> Result<()> {
    ensure!(
        (1..=100).contains(&args.samples),
        "--samples must be 1 to 100 a class, got {}",
        args.samples
    );
    let train = Dataset::load(&args.dir, Split::Train)?;
    let test = Dataset::load(&args.dir, Split::Test)?;
    let (train_counts, test_counts) = (train.class_counts(), test.class_counts());
    let width = train.classes.iter().map(|c| c.chars().count()).max().unwrap_or(0).max(5);
    outln!("{:>5}  {:width$}  {:>8}  {:>8}", "label", "class", "train", "test")?;
    for (i, class) in train.classes.iter().enumerate() {
        outln!("{i:>5}  {class:width$}  {:>8}  {:>8}", train_counts[i], test_counts[i])?;
    }
    outln!("{:>5}  {:width$}  {:>8}  {:>8}", "", "total", train.len(), test.len())?;
    let (mean, std) = train.mean_std()?;
    outln!("{0}x{0} pixels; mean {mean:.4?}, std {std:.4?} of the training images", train.size)?;
    let picture = picture::overview(&train, &test, args.samples)?;
    picture
        .save_with_format(&args.out, image::ImageFormat::Png)
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    outln!("picture: {} ({}x{})", args.out.display(), picture.width(), picture.height())?;
    Ok(())
}
