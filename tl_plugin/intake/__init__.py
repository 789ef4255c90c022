"""From whatever data a user has to splits and a written config."""
