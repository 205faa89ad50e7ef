"""Looking at what training reads: packed batches with their origins, and statistics of a stream."""
