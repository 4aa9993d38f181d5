"""What the tests need around them: real servers, broken peers, checked clean-up."""
