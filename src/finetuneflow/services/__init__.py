"""What a user can ask for, one module per noun; both doors (CLI and API) call nothing else."""
