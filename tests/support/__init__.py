"""What tests share: servers, databases, and one way to write a test for both faces."""
