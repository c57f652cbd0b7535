"""What both programs speak: pure."""
