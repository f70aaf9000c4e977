//! Pictures of a run: curves over the epochs, and the confusion matrix.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use kuva::backend::raster::RasterBackend;
use kuva::plot::{ColorMap, Heatmap, LinePlot};
use kuva::render::figure::Figure;
use kuva::render::layout::{Layout, TickFormat};
use kuva::render::plots::Plot;
use kuva::render::render::{Scene, render_multiple};

use crate::train::metrics::{Confusion, Row};
use crate::train::run_dir::write_atomically;

/// Colour-blind safe (Okabe and Ito 2008).
const TRAIN: &str = "#0072B2";
const TEST: &str = "#D55E00";
const OTHER: &str = "#009E73";

/// Draws loss, accuracy, learning rate and gradient norm over the epochs, as a PNG. Without rows it
/// draws nothing.
pub fn curves(path: &Path, title: &str, rows: &[Row]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let line = |value: fn(&Row) -> f64, color: &str, name: Option<&str>| {
        let points: Vec<(f64, f64)> = rows
            .iter()
            .map(|r| (f64::from(r.epoch), value(r)))
            .filter(|(_, y)| y.is_finite())
            .collect();
        let plot = LinePlot::new().with_data(points).with_color(color).with_stroke_width(2.0);
        Plot::Line(match name {
            Some(name) => plot.with_legend(name),
            None => plot,
        })
    };
    let panels = vec![
        vec![
            line(|r| r.train_loss, TRAIN, Some("train")),
            line(|r| r.test_loss, TEST, Some("test")),
        ],
        vec![
            line(|r| 100.0 * r.train_accuracy, TRAIN, Some("train")),
            line(|r| 100.0 * r.test_accuracy, TEST, Some("test")),
        ],
        vec![line(|r| r.lr, OTHER, None)],
        vec![line(|r| r.grad_norm, OTHER, None)],
    ];
    let labels = ["loss", "accuracy (%)", "learning rate", "gradient norm"];
    // The axis ends where the epochs do, with about ten ticks at whole epochs.
    let last = f64::from(rows[rows.len() - 1].epoch.max(2));
    let tick = (last / 10.0).ceil();
    let layouts = panels
        .iter()
        .zip(labels)
        .map(|(panel, label)| {
            Layout::auto_from_plots(panel)
                .with_title(label)
                .with_x_label("epoch")
                .with_x_axis_min(1.0)
                .with_x_axis_max(last)
                .with_x_tick_step(tick)
                .with_x_tick_format(TickFormat::Integer)
        })
        .collect();
    let scene = Figure::new(2, 2)
        .with_title(title)
        .with_plots(panels)
        .with_layouts(layouts)
        .with_cell_size(520.0, 320.0)
        .render();
    save(path, &scene, 1.5)
}

/// Draws the share of each label's images (rows) that were taken for each class (columns), as a
/// PNG.
pub fn confusion(path: &Path, classes: &[String], confusion: &Confusion) -> Result<()> {
    let n = confusion.classes;
    // The first row of a heatmap lies at its bottom.
    let shares: Vec<Vec<f64>> = (0..n)
        .rev()
        .map(|label| {
            let total = confusion.total(label).max(1) as f64;
            let counts = &confusion.counts[label * n..(label + 1) * n];
            counts.iter().map(|&c| 100.0 * c as f64 / total).collect()
        })
        .collect();
    // Numbers and names are legible for some twenty classes; beyond that colours must do.
    let legible = n <= 20;
    let heatmap = Heatmap::new().with_data(shares).with_color_map(pale_blue());
    let plots = vec![Plot::Heatmap(if legible { heatmap.with_values() } else { heatmap })];
    let mut layout = Layout::auto_from_plots(&plots)
        .with_title(format!("test images: accuracy {:.2} %", 100.0 * confusion.accuracy()))
        .with_x_label("predicted (% of the label's images)")
        .with_y_label("label")
        .with_width(900.0)
        .with_height(760.0);
    if legible && classes.len() == n {
        layout = layout
            .with_x_categories(classes.to_vec())
            .with_y_categories(classes.iter().rev().cloned().collect())
            .with_x_tick_rotate(-45.0);
    }
    save(path, &render_multiple(plots, layout), 1.0)
}

/// From white to a blue on which black numbers can still be read. The root spreads the small
/// shares, the errors.
fn pale_blue() -> ColorMap {
    ColorMap::Custom(Arc::new(|t: f64| {
        let t = t.clamp(0.0, 1.0).sqrt();
        let mix = |end: f64| (255.0 + t * (end - 255.0)).round() as u8;
        format!("#{:02x}{:02x}{:02x}", mix(86.0), mix(180.0), mix(233.0))
    }))
}

fn save(path: &Path, scene: &Scene, scale: f32) -> Result<()> {
    let png = RasterBackend { scale }
        .render_scene(scene)
        .map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))?;
    write_atomically(path, &png)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(epoch: u32, loss: f64) -> Row {
        Row {
            tta_accuracy: None,
            skipped: None,
            epoch,
            step: 100 * u64::from(epoch),
            train_loss: loss,
            train_accuracy: 1.0 - loss / 3.0,
            test_loss: loss * 1.1,
            test_accuracy: 1.0 - loss / 2.9,
            lr: 0.1 / f64::from(epoch),
            grad_norm: 1.0,
            images_per_second: 100.0,
            seconds: 1.0,
        }
    }

    #[test]
    fn pictures_are_pngs_even_of_one_epoch_or_infinite_values() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("curves.png");
        for rows in [vec![row(1, 2.0)], vec![row(1, f64::INFINITY), row(2, 1.0), row(3, f64::NAN)]]
        {
            curves(&path, "title", &rows).unwrap();
            assert_eq!(&std::fs::read(&path).unwrap()[..4], b"\x89PNG");
        }
        for n in [1, 10, 100] {
            let names: Vec<String> = (0..n).map(|i| format!("class {i}")).collect();
            let path = dir.path().join(format!("confusion-{n}.png"));
            confusion(&path, &names, &Confusion::new(n)).unwrap();
            assert_eq!(&std::fs::read(&path).unwrap()[..4], b"\x89PNG");
        }
    }
}
