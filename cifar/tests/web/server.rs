//! A server of files, for one browser: what the driver page and the page under test fetch.

use std::fs;
use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

/// Serves in the background, until the program ends.
pub struct Server {
    /// Where it listens, as `http://127.0.0.1:PORT`.
    pub address: String,
    /// Bodies that were posted.
    pub reports: Receiver<String>,
}

impl Server {
    /// Serves `/test/..` from `test`, and `docs/web` and `shaders` from the repository at `root`.
    pub fn start(root: &Path, test: &Path) -> Result<Server> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = format!("http://{}", listener.local_addr()?);
        let (sender, reports) = channel();
        let folders = [root, test].map(Path::to_path_buf);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (folders, sender) = (folders.clone(), sender.clone());
                // A browser opens connections ahead and drops them: that is no failure.
                thread::spawn(move || answer(stream, &folders, &sender));
            }
        });
        Ok(Server { address, reports })
    }
}

/// One request a connection.
fn answer(mut stream: TcpStream, folders: &[PathBuf; 2], reports: &Sender<String>) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_string());
    }
    let mut words = lines.first().map(String::as_str).unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, body) = if method == "POST" {
        let is_length = |line: &String| {
            Some(line.to_lowercase().strip_prefix("content-length:")?.trim().parse())
        };
        let length: u64 = lines.iter().find_map(is_length).and_then(|n| n.ok()).unwrap_or(0);
        let mut body = String::new();
        reader.take(length).read_to_string(&mut body)?;
        reports.send(body).ok();
        ("200 OK", Vec::new())
    } else {
        match file(path, folders).map(fs::read) {
            Some(Ok(bytes)) => ("200 OK", bytes),
            _ => ("404 Not Found", Vec::new()),
        }
    };
    let kind = match path.split('?').next().and_then(|path| path.rsplit('.').next()) {
        Some("html") => "text/html",
        Some("js") => "text/javascript", // browsers take modules of no other type
        _ => "application/octet-stream",
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(&body)
}

/// The file behind a URL's path.
fn file(path: &str, [root, test]: &[PathBuf; 2]) -> Option<PathBuf> {
    let path = path.split('?').next()?.strip_prefix('/')?;
    if path.contains("..") {
        return None;
    }
    let served = ["docs/web/", "shaders/"].iter().any(|folder| path.starts_with(folder));
    match path.strip_prefix("test/") {
        Some(name) => Some(test.join(name)),
        None => served.then(|| root.join(path)),
    }
}
