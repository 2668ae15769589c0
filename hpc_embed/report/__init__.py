"""One HTML file that tells what a run did, for people; made beside the dataset, and never read back."""
