//! JSON as text: laid out for reading without being decoded, so that the order of its keys and
//! every digit of its numbers stay.

/// Spaces for each level.
const INDENT: usize = 2;

/// The same JSON, one item in a line.
pub(crate) fn pretty(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut chars = json.chars().filter(|c| !c.is_ascii_control()).peekable();
    while let Some(c) = chars.next() {
        if in_string {
            text.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            ' ' => {}
            '{' | '[' => {
                text.push(c);
                while chars.next_if_eq(&' ').is_some() {}
                if let Some(end) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(end);
                } else {
                    depth += 1;
                    new_line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(&mut text, depth);
                text.push(c);
            }
            ',' => {
                text.push(c);
                new_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            c => {
                in_string = c == '"';
                text.push(c);
            }
        }
    }
    text
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n(' ', depth * INDENT));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_that_of_serde_json() {
        let json = r#"{"b":[1,{"a":"x,{}[]: \"\\"}],"e":[],"f":{},"g":null,"h":-1.5}"#;
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let expected = serde_json::to_string_pretty(&value).unwrap();
        assert_eq!(expected, pretty(json));
        assert_eq!(expected, pretty(&expected), "it is stable");
    }

    #[test]
    fn order_and_digits_stay() {
        assert_eq!(
            "{\n  \"b\": 1.10,\n  \"a\": 123456789012345678901234567890\n}",
            pretty(r#"{"b":1.10, "a":123456789012345678901234567890}"#)
        );
    }
}
