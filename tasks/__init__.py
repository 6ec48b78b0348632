"""SeqIO registrations: importing a module here registers its tasks (see TASK_MODULES)."""
