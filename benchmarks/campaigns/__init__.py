"""Campaigns: thousands of spoilt inputs, dozens of disturbed runs."""
