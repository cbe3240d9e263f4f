//! What BIRD answers on its control socket (pure).
//!
//! A line begins with four digits; `-` after them means that more follows, a space that it was the last. A line that
//! begins with a space belongs to the digits before it (BIRD `nest/cli.c`, `doc/reply_codes`).

/// One answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reply {
    /// Each line with its number.
    pub(super) lines: Vec<(u16, String)>,
    complete: bool,
}

impl Reply {
    /// Takes in a line, without its end.
    ///
    /// # Errors
    /// It is no line of an answer.
    pub(super) fn push(&mut self, line: &str) -> Result<(), String> {
        if line.starts_with('+') {
            return Ok(());
        }
        if let Some(more) = line.strip_prefix(' ') {
            let code = self.lines.last().map_or(0, |(code, _)| *code);
            self.lines.push((code, more.to_owned()));
            return Ok(());
        }
        let wrong = || format!("{line:?} is no answer of BIRD's");
        let (digits, rest) = line.split_at_checked(4).ok_or_else(wrong)?;
        let code = digits.parse().map_err(|_| wrong())?;
        let (mark, text) = rest.split_at_checked(1).ok_or_else(wrong)?;
        self.complete = match mark {
            " " => true,
            "-" => false,
            _ => return Err(wrong()),
        };
        self.lines.push((code, text.to_owned()));
        Ok(())
    }

    /// Whether nothing more comes.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Why the command was refused: numbers from 8000 are errors.
    pub(super) fn refusal(&self) -> Option<&str> {
        let refused = |(code, _): &&(u16, String)| *code >= 8000;
        self.lines.iter().find(refused).map(|(_, text)| text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Reply {
        let mut reply = Reply::default();
        for line in text.lines() {
            assert!(!reply.is_complete());
            reply.push(line).unwrap();
        }
        reply
    }

    #[test]
    fn an_answer_ends_with_a_space_after_the_digits() {
        let done = reply("0002-Reading configuration from bird.conf\n0003 Reconfigured");
        assert!(done.is_complete() && done.refusal().is_none());
        assert!(!reply("1006-  Description:    n2\n   BGP state:          Active").is_complete());
        assert!(reply("0000 ").is_complete());
    }

    #[test]
    fn refusals_are_told_from_answers() {
        assert_eq!(
            reply("0002-Reading\n8002 bird.conf:3:1 syntax error").refusal(),
            Some("bird.conf:3:1 syntax error")
        );
        assert!(reply("9001 syntax error").refusal().is_some());
        assert!(Reply::default().push("HTTP/1.1 400 Bad Request").is_err());
        assert!(Reply::default().push("").is_err());
    }
}
