"""Pictures of recorded results: reports, a live board, the terminal. They read, and decide nothing."""
