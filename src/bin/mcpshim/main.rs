use std::process::ExitCode;

fn main() -> ExitCode {
    // a child of ours that starts one upstream server and ends it with us
    mcpshim::upstream::dispatch_guard().unwrap_or(ExitCode::SUCCESS)
}
