"""What is said when: text front end, language model, condition head and pointer."""
