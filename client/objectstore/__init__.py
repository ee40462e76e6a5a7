"""Where ciphertext lies: local disk, S3, Google Cloud, Azure or memory, under keys used once."""
