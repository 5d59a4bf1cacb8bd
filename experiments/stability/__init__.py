"""Question 6: which terms of the generalisation bound rank real fine-tunes?"""
