//! A plot of times over sizes, both logarithmic, as SVG: for a page that has no other means.

use std::fmt::Write as _;

/// One line of a plot: its name, and its points as bytes and microseconds.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Colours that are told apart without seeing red and green; lines of a pair share one, and the
/// second of a pair is dashed.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 20.0;
const PLOT_WIDTH: f64 = 480.0;
const PLOT_HEIGHT: f64 = 390.0;

/// Draws pairs of lines, and an upright one at `mark` bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "powers of a few tens, and sizes that are powers of two"
)]
pub(crate) fn draw(lines: &[Line], mark: f64) -> String {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (right, top) = points().fold((1.0_f64, 1.0_f64), |(right, top), (bytes, time)| {
        (right.max(bytes.log2()), top.max(time.log10().ceil()))
    });
    let bottom = points().fold(top, |bottom, (_, time)| bottom.min(time.log10().floor()));
    let x = |bytes: f64| LEFT + bytes.log2() / right * PLOT_WIDTH;
    let y = |time: f64| TOP + (top - time.log10()) / (top - bottom).max(1.0) * PLOT_HEIGHT;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    let end = LEFT + PLOT_WIDTH;
    let mut put = |text: String| writeln!(out, "{text}").expect("a string takes it");
    for power in bottom as i32..=top as i32 {
        let time = 10_f64.powi(power);
        put(format!(
            "<path d=\"M{LEFT} {0:.1}H{end}\" stroke=\"#ddd\"/>\
             <text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{3}</text>",
            y(time),
            LEFT - 8.0,
            y(time) + 4.0,
            time_label(time)
        ));
    }
    for power in (0..=right as i32).step_by(5) {
        let bytes = 2_f64.powi(power);
        put(format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x(bytes),
            TOP + PLOT_HEIGHT + 20.0,
            size_label(bytes as u64)
        ));
    }
    put(format!(
        "<path d=\"M{0:.1} {TOP}V{1}\" stroke=\"#888\" stroke-dasharray=\"2 3\"/>\
         <text x=\"{2:.1}\" y=\"{3}\" fill=\"#555\">threshold</text>",
        x(mark),
        TOP + PLOT_HEIGHT,
        x(mark) + 4.0,
        TOP + 12.0
    ));
    for (index, line) in lines.iter().enumerate() {
        let colour = COLOURS[index / 2 % COLOURS.len()];
        let dashes = if index % 2 == 1 { " stroke-dasharray=\"6 3\"" } else { "" };
        let style = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"{dashes}");
        let place = |(bytes, time): &(f64, f64)| format!("{:.1},{:.1}", x(*bytes), y(*time));
        let points: Vec<String> = line.points.iter().map(place).collect();
        put(format!("<polyline points=\"{}\" {style}/>", points.join(" ")));
        let height = TOP + 12.0 + 22.0 * index as f64;
        put(format!(
            "<path d=\"M{} {height}h26\" {style}/><text x=\"{}\" y=\"{}\">{}</text>",
            end + 12.0,
            end + 44.0,
            height + 4.0,
            line.name
        ));
    }
    out + "</svg>\n"
}

/// `64 KiB`; sizes are powers of two.
pub(crate) fn size_label(bytes: u64) -> String {
    match bytes {
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

fn time_label(microseconds: f64) -> String {
    match microseconds {
        time if time < 1e3 => format!("{time:.0} µs"),
        time if time < 1e6 => format!("{:.0} ms", time / 1e3),
        time => format!("{:.0} s", time / 1e6),
    }
}
