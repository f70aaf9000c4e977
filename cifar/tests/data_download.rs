//! Downloads, against a small server on this machine.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tilegrad_cifar::data::download::{Archive, download};
use tilegrad_cifar::data::manifest::sha256_file;
use tilegrad_cifar::data::{Dataset, ImageBuffer, Split};

/// How a server answers.
#[derive(Clone, Copy)]
struct Manner {
    ranges: bool,
    /// Connections that are cut after so many bytes of the body, and how many bytes.
    cut: (usize, usize),
    status: Option<&'static str>,
}

const GOOD: Manner = Manner { ranges: true, cut: (0, 0), status: None };

struct Server {
    url: String,
    /// First byte asked for, of each request.
    requests: Arc<Mutex<Vec<Option<usize>>>>,
}

fn serve(body: Vec<u8>, manner: Manner) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/data.tar.gz", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let log = requests.clone();
    let served = AtomicUsize::new(0);
    // The thread ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let cut =
                (served.fetch_add(1, Ordering::Relaxed) < manner.cut.0).then_some(manner.cut.1);
            // A client that hangs up is not the server's trouble.
            let _ = answer(stream, &body, manner, cut, &log);
        }
    });
    Server { url, requests }
}

fn answer(
    mut stream: TcpStream,
    body: &[u8],
    manner: Manner,
    cut: Option<usize>,
    log: &Mutex<Vec<Option<usize>>>,
) -> std::io::Result<()> {
    let mut start = None;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    log.lock().unwrap().push(start);
    if let Some(status) = manner.status {
        return write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let (head, part) = match start {
        Some(start) if manner.ranges && start >= body.len() => {
            ("416 Range Not Satisfiable".to_string(), &body[..0])
        }
        Some(start) if manner.ranges => {
            let range = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
            (format!("206 Partial Content\r\nContent-Range: {range}"), &body[start..])
        }
        _ => ("200 OK".to_string(), body),
    };
    let length = part.len();
    write!(stream, "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    stream.write_all(&part[..cut.unwrap_or(length).min(length)])?;
    stream.flush()
}

/// A tar.gz in the shape of CIFAR-10's, with `records` a file, and what to expect of it.
fn archive(dir: &Path, records: usize) -> (Vec<u8>, Archive) {
    let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    let mut builder = tar::Builder::new(encoder);
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        let path = format!("cifar-10-batches-bin/{name}");
        builder.append_data(&mut header, path, bytes).unwrap();
    };
    let bytes: Vec<u8> = (0..records)
        .flat_map(|i| std::iter::once(i as u8 % 10).chain(vec![i as u8; 3072]))
        .collect();
    for b in 1..=5 {
        add(&format!("data_batch_{b}.bin"), &bytes);
    }
    add("test_batch.bin", &bytes);
    add("readme.html", b"<html>");
    let body = builder.into_inner().unwrap().finish().unwrap();
    let path = dir.join("reference");
    std::fs::write(&path, &body).unwrap();
    let archive = Archive {
        sha256: sha256_file(&path).unwrap(),
        bytes: body.len() as u64,
        ..Archive::cifar10()
    };
    (body, archive)
}

struct Case {
    dir: tempfile::TempDir,
    body: Vec<u8>,
    archive: Archive,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (body, archive) = archive(dir.path(), 12);
        Case { dir, body, archive }
    }

    fn out(&self) -> std::path::PathBuf {
        self.dir.path().join("out")
    }

    fn part(&self) -> std::path::PathBuf {
        self.out().join("cifar-10-batches-bin.tar.gz.part")
    }

    /// Downloads from a new server.
    fn run(&mut self, manner: Manner) -> (anyhow::Result<std::path::PathBuf>, Vec<Option<usize>>) {
        let server = serve(self.body.clone(), manner);
        self.archive.url = server.url;
        let result = download(&self.archive, &self.out());
        let requests = server.requests.lock().unwrap().clone();
        (result, requests)
    }

    /// The data set is there, and nothing else is.
    fn assert_complete(&self) {
        let set = Dataset::load(&self.out(), Split::Train).unwrap();
        let first = set.image(11, &mut ImageBuffer::default()).unwrap()[0];
        assert_eq!((set.len(), set.labels[11], first), (60, 1, 11));
        let names: Vec<_> =
            self.out().read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["cifar-10-batches-bin"]);
    }
}

#[test]
fn a_whole_download_is_checked_and_unpacked_once() {
    let mut case = Case::new();
    let (result, requests) = case.run(GOOD);
    assert_eq!(result.unwrap(), case.out().join("cifar-10-batches-bin"));
    assert_eq!(requests, [None]);
    case.assert_complete();
    let (result, requests) = case.run(GOOD);
    assert!(result.is_ok() && requests.is_empty(), "what is there is not fetched again");
}

#[test]
fn a_cut_connection_is_taken_up_where_it_ended() {
    let mut case = Case::new();
    let (result, requests) = case.run(Manner { cut: (3, 50_000), ..GOOD });
    result.unwrap();
    assert_eq!(requests, [None, Some(50_000), Some(100_000), Some(150_000)]);
    case.assert_complete();
}

#[test]
fn the_next_command_goes_on_from_the_part_file() {
    let mut case = Case::new();
    // Every connection ends at once: given up, with a line that says how to go on.
    let (result, requests) = case.run(Manner { cut: (99, 0), ..GOOD });
    let text = format!("{:#}", result.unwrap_err());
    assert!(text.contains("run the same command again") && text.contains("0 of "), "{text}");
    assert_eq!(requests.len(), 4);
    std::fs::write(case.part(), &case.body[..70_000]).unwrap();
    let (result, requests) = case.run(GOOD);
    result.unwrap();
    assert_eq!(requests, [Some(70_000)]);
    case.assert_complete();
}

#[test]
fn a_server_that_ignores_ranges_starts_again() {
    let mut case = Case::new();
    std::fs::create_dir(case.out()).unwrap();
    std::fs::write(case.part(), &case.body[..70_000]).unwrap();
    let (result, requests) = case.run(Manner { ranges: false, ..GOOD });
    result.unwrap();
    assert_eq!(requests, [Some(70_000)]);
    case.assert_complete();
}

#[test]
fn a_wrong_file_is_refused_and_removed() {
    let mut case = Case::new();
    case.body[100_000] ^= 1;
    let (result, _) = case.run(GOOD);
    let text = format!("{:#}", result.unwrap_err());
    assert!(text.contains("SHA-256 expected") && text.contains("removed"), "{text}");
    assert!(!case.part().exists() && !case.out().join("cifar-10-batches-bin").exists());
    // A part file of another archive: the digest finds it, and the next try starts from nothing.
    case.body[100_000] ^= 1;
    std::fs::write(case.part(), vec![1; 70_000]).unwrap();
    assert!(case.run(GOOD).0.is_err());
    let (result, requests) = case.run(GOOD);
    result.unwrap();
    assert_eq!(requests, [None]);
    case.assert_complete();
    // Longer than the archive can be: dropped at once.
    let mut case = Case::new();
    std::fs::create_dir(case.out()).unwrap();
    std::fs::write(case.part(), vec![1; case.body.len() + 5]).unwrap();
    case.run(GOOD).0.unwrap();
    case.assert_complete();
}

#[test]
fn other_answers_are_reported() {
    let mut case = Case::new();
    let (result, requests) = case.run(Manner { status: Some("404 Not Found"), ..GOOD });
    let text = format!("{:#}", result.unwrap_err());
    assert!(text.contains("404") && text.contains("--url"), "{text}");
    assert_eq!(requests.len(), 1, "a missing file will not come by asking again");
    let (result, requests) = case.run(Manner { status: Some("503 Service Unavailable"), ..GOOD });
    assert!(format!("{:#}", result.unwrap_err()).contains("503"));
    assert_eq!(requests.len(), 4);
    case.run(GOOD).0.unwrap();
    case.assert_complete();
}
