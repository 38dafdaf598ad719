"""What leaves the workspace: adapter, merged model, report, zip."""
