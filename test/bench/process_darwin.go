package main

// rssUnit is what rusage counts the resident set in.
const rssUnit = 1
