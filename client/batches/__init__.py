"""OpenAI's /v1/files and /v1/batches over files on disk: the work that a server does when it has nothing better to do."""
