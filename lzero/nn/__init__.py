"""Parts of networks that no algorithm owns."""
