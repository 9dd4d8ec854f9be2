"""Tests of taking the result along."""
