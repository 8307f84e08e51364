"""What a report is made of: runs read from disk, statistics over seeds, and panels that show them."""
