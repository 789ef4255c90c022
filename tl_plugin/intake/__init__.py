"""Read data of any form, divide them into splits and write a config."""
