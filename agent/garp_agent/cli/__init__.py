"""What a person types: the commands of both programs."""
