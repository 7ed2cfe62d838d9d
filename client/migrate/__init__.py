"""`ingot migrate`: another server's command line, said in ingot's words."""
