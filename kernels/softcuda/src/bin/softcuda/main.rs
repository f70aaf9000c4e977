//! `softcuda`: loads PTX, lists its kernels, runs one by hand, shows what a profiler would.

mod argument;
mod table;

use std::fs;
use std::process::ExitCode;

use argument::{Argument, Kind, Value};
use tilegrad_softcuda::driver::parse_checks;
use tilegrad_softcuda::{Device, Launch, Options};

const USAGE: &str = "softcuda: a CUDA device in software

softcuda check FILE.ptx...                      load only; list kernels with registers and shared memory
softcuda run FILE.ptx --kernel K [options]      run one kernel, all checks on
softcuda profile FILE.ptx --kernel K [options]  the same, and print its counters

  --grid X[,Y[,Z]]     blocks (1)
  --block X[,Y[,Z]]    threads of a block (1)
  --shared BYTES       dynamic shared memory (0)
  --arg ARG            an argument of the kernel; one for each parameter, in order:
                         u32:5  f32:1.5             a number
                         f32[1024]=iota             a buffer: iota, zeros, ones, random, none (uninitialised)
                         f32[16]=3.5                a buffer full of one number
                         f32[..]=@FILE              a buffer with the bytes of a file (f32[8]=@FILE: its first 8)
                       types: u8 s8 u16 s16 u32 s32 u64 s64 f16 bf16 f32 f64
  --print N            after the run, print the first N elements of each buffer
  --write I=FILE       after the run, write the buffer of argument I (from 0) to a file
  --checks LIST        all (default), none, or some of bounds,uninitialised,races,barriers,leaks
  --memory BYTES       memory of the device (4294967296)
  --threads N          blocks that run at the same time (one a core)

Exit status: 0, 1 for PTX that is refused or a kernel that faults, 2 for a command that makes no sense.
";

/// What the command line says about a run.
struct Command {
    file: String,
    kernel: Option<String>,
    launch: Launch,
    arguments: Vec<Argument>,
    print: usize,
    write: Vec<(usize, String)>,
    options: Options,
}

enum Failure {
    /// The command makes no sense.
    Usage(String),
    /// The PTX or the kernel does.
    Finding(String),
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.first().map(String::as_str) {
        Some("check") => check(&words[1..]),
        Some("run") => command(&words[1..]).and_then(|c| run(&c, false)),
        Some("profile") => command(&words[1..]).and_then(|c| run(&c, true)),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            Ok(())
        }
        Some(other) => Err(Failure::Usage(format!("{other} is no command"))),
        None => Err(Failure::Usage("a command is missing".into())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Finding(text)) => {
            eprintln!("softcuda: {text}");
            ExitCode::from(1)
        }
        Err(Failure::Usage(text)) => {
            eprintln!("softcuda: {text} (softcuda help)");
            ExitCode::from(2)
        }
    }
}

fn finding(error: impl ToString) -> Failure {
    Failure::Finding(error.to_string())
}

fn read_ptx(file: &str) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|e| finding(format!("{file}: {e}")))
}

fn check(files: &[String]) -> Result<(), Failure> {
    if files.is_empty() {
        return Err(Failure::Usage("check which file?".into()));
    }
    let device = Device::new(Options::default()).map_err(finding)?;
    let mut refused = 0;
    println!(
        "{:<58} {:>9} {:>7} {:>6} {:>7} {:>6}",
        "kernel", "registers", "shared", "local", "threads", "params"
    );
    for file in files {
        let loaded = read_ptx(file).and_then(|text| device.load(file, &text).map_err(finding));
        let module = match loaded {
            Ok(module) => module,
            Err(Failure::Finding(text) | Failure::Usage(text)) => {
                eprintln!("softcuda: {text}");
                refused += 1;
                continue;
            }
        };
        for f in module.functions() {
            let (registers, shared, local) = (f.registers(), f.shared_bytes(), f.local_bytes());
            let (threads, params) = (f.max_threads(), f.params().len());
            println!(
                "{:<58} {registers:>9} {shared:>7} {local:>6} {threads:>7} {params:>6}",
                f.name()
            );
        }
    }
    match refused {
        0 => Ok(()),
        n => Err(finding(format!("{n} of {} files refused", files.len()))),
    }
}

fn command(words: &[String]) -> Result<Command, Failure> {
    let mut command = Command {
        file: String::new(),
        kernel: None,
        launch: Launch { grid: [1; 3], block: [1; 3], shared_bytes: 0 },
        arguments: Vec::new(),
        print: 0,
        write: Vec::new(),
        options: Options::default(),
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            if !command.file.is_empty() {
                return Err(Failure::Usage(format!("{word}: one file is enough")));
            }
            command.file = word.clone();
            continue;
        }
        let value = words.next().ok_or_else(|| Failure::Usage(format!("{word} needs a value")))?;
        let wrong = |what: &str| Failure::Usage(format!("{word} {value}: {what}"));
        let number = || value.parse::<usize>().map_err(|_| wrong("a number is wanted"));
        match word.as_str() {
            "--kernel" => command.kernel = Some(value.clone()),
            "--grid" => command.launch.grid = extent(value).ok_or_else(|| wrong("X[,Y[,Z]]"))?,
            "--block" => command.launch.block = extent(value).ok_or_else(|| wrong("X[,Y[,Z]]"))?,
            "--shared" => {
                let bytes = u32::try_from(number()?).map_err(|_| wrong("too many bytes"))?;
                command.launch.shared_bytes = bytes;
            }
            "--arg" => command.arguments.push(argument::parse(value).map_err(|e| wrong(&e))?),
            "--print" => command.print = number()?,
            "--write" => {
                let (index, file) = value.split_once('=').ok_or_else(|| wrong("I=FILE"))?;
                let index = index.parse().map_err(|_| wrong("I is the argument's number"))?;
                command.write.push((index, file.to_string()));
            }
            "--checks" => command.options.checks = parse_checks(value).map_err(|e| wrong(&e))?,
            "--memory" => command.options.memory_bytes = number()?,
            "--threads" => command.options.threads = Some(number()?.max(1)),
            _ => return Err(Failure::Usage(format!("{word} is no option"))),
        }
    }
    if command.file.is_empty() {
        return Err(Failure::Usage("which file?".into()));
    }
    Ok(command)
}

fn extent(text: &str) -> Option<[u32; 3]> {
    let mut sizes = [1; 3];
    for (i, part) in text.split(',').enumerate() {
        *sizes.get_mut(i)? = part.trim().parse().ok()?;
    }
    Some(sizes)
}

fn run(command: &Command, profile: bool) -> Result<(), Failure> {
    let device = Device::new(Options { count: profile, ..command.options }).map_err(finding)?;
    let module = device.load(&command.file, &read_ptx(&command.file)?).map_err(finding)?;
    let functions = module.functions();
    let function = match (&command.kernel, functions.as_slice()) {
        (Some(name), _) => module.function(name).map_err(finding)?,
        (None, [only]) => only.clone(),
        (None, _) => {
            let names: Vec<&str> = functions.iter().map(|f| f.name()).collect();
            return Err(Failure::Usage(format!("--kernel is missing: {}", names.join(", "))));
        }
    };
    let mut params: Vec<Vec<u8>> = Vec::new();
    let mut buffers: Vec<(usize, Kind, u64, usize)> = Vec::new();
    for (i, argument) in command.arguments.iter().enumerate() {
        match &argument.value {
            Value::Number(bytes) => params.push(bytes.clone()),
            Value::Buffer { count, bytes } => {
                let size = count * argument.kind.bytes();
                let pointer = device.alloc(size).map_err(finding)?;
                if let Some(bytes) = bytes {
                    device.write(pointer, bytes).map_err(finding)?;
                }
                params.push(pointer.to_le_bytes().to_vec());
                buffers.push((i, argument.kind, pointer, *count));
            }
        }
    }
    let slices: Vec<&[u8]> = params.iter().map(Vec::as_slice).collect();
    let start = std::time::Instant::now();
    let counters = device.launch(&function, command.launch, &slices).map_err(finding)?;
    let seconds = start.elapsed().as_secs_f64();
    for (i, kind, pointer, count) in &buffers {
        let files: Vec<&String> =
            command.write.iter().filter(|(at, _)| at == i).map(|(_, f)| f).collect();
        if command.print == 0 && files.is_empty() {
            continue;
        }
        let mut bytes = vec![0; count * kind.bytes()];
        device.read(*pointer, &mut bytes).map_err(finding)?;
        for file in files {
            fs::write(file, &bytes).map_err(|e| finding(format!("{file}: {e}")))?;
        }
        if command.print > 0 {
            let shown = kind.show(&bytes[..command.print.min(*count) * kind.bytes()]);
            let more = if command.print < *count { " ..." } else { "" };
            println!("argument {i}: {}[{count}] = {shown}{more}", kind.name());
        }
    }
    if let Some((i, file)) = command.write.iter().find(|(i, _)| buffers.iter().all(|b| b.0 != *i)) {
        return Err(Failure::Usage(format!("--write {i}={file}: argument {i} is no buffer")));
    }
    if profile {
        table::print(function.name(), &counters, seconds);
    }
    Ok(())
}
